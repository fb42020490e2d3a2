//! The tree as a serde deserializer: every error gets the place of the innermost node it arose at, and the path to it.
//!
//! Enums are externally tagged: `auto` for a variant without content, `{ parquet: … }` for one with content. A section whose
//! keys are all commented out (YAML's null) is read as an empty map.

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Unexpected, Visitor};

use super::fault::{Fault, Step};
use super::scalar::{Resolved, resolve};
use super::tree::{Key, Node, Place, What};

/// Reads `T` from the tree.
pub(super) fn from_tree<T: de::DeserializeOwned>(root: &Node) -> Result<T, Fault> {
    T::deserialize(De(root))
}

#[derive(Clone, Copy)]
struct De<'a>(&'a Node);

impl<'a> De<'a> {
    /// A scalar under the type that its text has.
    fn scalar<'de, V: Visitor<'de>>(self, text: &str, plain: bool, visitor: V) -> Result<V::Value, Fault> {
        match if plain { resolve(text) } else { Resolved::Text } {
            Resolved::Null => visitor.visit_unit(),
            Resolved::Bool(value) => visitor.visit_bool(value),
            Resolved::Unsigned(value) => visitor.visit_u64(value),
            Resolved::Signed(value) => visitor.visit_i64(value),
            Resolved::Float(value) => visitor.visit_f64(value),
            Resolved::Text => visitor.visit_str(text),
        }
    }

    fn list<'de, V: Visitor<'de>>(self, list: &'a [Node], visitor: V) -> Result<V::Value, Fault> {
        let mut items = Items { list, next: 0 };
        let value = visitor.visit_seq(&mut items)?;
        match items.next < list.len() {
            true => Err(Fault::new(format!("a list of {} where {} belong", list.len(), items.next))),
            false => Ok(value),
        }
    }

    fn map<'de, V: Visitor<'de>>(self, map: &'a [(Key, Node)], visitor: V) -> Result<V::Value, Fault> {
        let mut entries = Entries { map, next: 0, last: None };
        // What a visitor says on its own account, it says of the key it read last; at the end, of the whole map.
        visitor.visit_map(&mut entries).map_err(|fault| match entries.last {
            Some(place) => fault.at(place),
            None => fault,
        })
    }
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.what {
            What::Scalar { text, plain } => self.scalar(text, *plain, visitor),
            What::List(list) => self.list(list, visitor),
            What::Map(map) => self.map(map, visitor),
        }
        .map_err(|fault| fault.at(self.0.at))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.what {
            // `split: 2026` and `key: true` are texts where a text belongs.
            What::Scalar { text, .. } if !self.0.is_null() => {
                visitor.visit_str(text).map_err(|fault: Fault| fault.at(self.0.at))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.is_null() {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.is_null() {
            true => self.map(&[], visitor).map_err(|fault| fault.at(self.0.at)),
            false => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        // Derived structs would take a list as their fields in order; a pipeline file names its keys.
        match &self.0.what {
            What::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &"a map of keys")),
            _ => self.deserialize_map(visitor),
        }
        .map_err(|fault: Fault| fault.at(self.0.at))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.what {
            What::Scalar { text, .. } if !self.0.is_null() => {
                visitor.visit_enum(Choice { word: text, content: None, node: self.0 })
            }
            What::Map(map) if map.len() == 1 => {
                visitor.visit_enum(Choice { word: &map[0].0.text, content: Some(&map[0]), node: self.0 })
            }
            What::Map(map) if map.len() > 1 => {
                let unknown = map.iter().find(|(key, _)| !variants.contains(&key.text.as_str()));
                let fault = match unknown {
                    Some((key, _)) => <Fault as de::Error>::unknown_field(&key.text, variants).at(key.at),
                    None => Fault::new(format!("exactly one of {} belongs here", variants.join(", "))).at(map[1].0.at),
                };
                Err(fault)
            }
            _ => Err(Fault::new(format!("exactly one of {} belongs here", variants.join(", ")))),
        }
        .map_err(|fault| fault.at(self.0.at))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self).map_err(|fault| fault.at(self.0.at))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf unit unit_struct seq tuple tuple_struct
    }
}

struct Items<'a> {
    list: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for &mut Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(node) = self.list.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(De(node)).map(Some).map_err(|fault| fault.at(node.at).under(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len() - self.next)
    }
}

struct Entries<'a> {
    map: &'a [(Key, Node)],
    next: usize,
    /// The key that was read last; `None` before the first and after the last.
    last: Option<Place>,
}

impl<'de> de::MapAccess<'de> for &mut Entries<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let entry = self.map.get(self.next);
        self.last = entry.map(|(key, _)| key.at);
        let Some((key, _)) = entry else { return Ok(None) };
        seed.deserialize(key.text.as_str().into_deserializer()).map(Some).map_err(|fault: Fault| fault.at(key.at))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((key, node)) = self.map.get(self.next) else {
            return Err(Fault::new("a value was asked for before its key"));
        };
        self.next += 1;
        seed.deserialize(De(node)).map_err(|fault| fault.at(node.at).under(Step::Key(key.text.clone())))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.map.len() - self.next)
    }
}

/// A variant of an enum: its word, and what stands behind it.
struct Choice<'a> {
    word: &'a str,
    content: Option<&'a (Key, Node)>,
    node: &'a Node,
}

impl<'a> Choice<'a> {
    /// The content, or a complaint that it is missing.
    fn content(&self) -> Result<&'a (Key, Node), Fault> {
        self.content
            .ok_or_else(|| Fault::new(format!("`{0}` needs its keys: `{{ {0}: … }}`", self.word)).at(self.node.at))
    }

    fn inside<T>(content: &(Key, Node), result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(content.1.at).under(Step::Key(content.0.text.clone())))
    }
}

impl<'de> de::EnumAccess<'de> for Choice<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let at = self.content.map_or(self.node.at, |(key, _)| key.at);
        let value = seed.deserialize(self.word.into_deserializer()).map_err(|fault: Fault| fault.at(at))?;
        Ok((value, self))
    }
}

impl<'de> de::VariantAccess<'de> for Choice<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            Some((key, node)) if !node.is_null() => {
                Err(Fault::new(format!("`{0}` has no keys: write just `{0}`", key.text)).at(node.at))
            }
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        let content = self.content()?;
        Self::inside(content, seed.deserialize(De(&content.1)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        let content = self.content()?;
        Self::inside(content, De(&content.1).deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        let content = self.content()?;
        Self::inside(content, De(&content.1).deserialize_struct("", fields, visitor))
    }
}
