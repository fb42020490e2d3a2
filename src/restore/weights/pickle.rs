//! The pickles inside PyTorch's files, without Python: a stack machine that can make dictionaries, lists, numbers, texts and tensors,
//! and nothing else.
//!
//! A pickle is a program that may call any function by name. This one knows the handful that a dictionary of tensors needs
//! (`collections.OrderedDict`, `torch._utils._rebuild_tensor_v2` and `_rebuild_parameter`, the storage types) and refuses every other
//! name, before anything is called. Objects lie in one list and refer to each other by number, so nothing recurses, whatever refers to
//! what. (long because all opcodes are in it)

use std::collections::HashMap;

use candle_core::DType;

use super::Stored;

/// A dictionary of LLaMA-2-7B's tensors takes some 15,000 steps and 40 kB.
const MOST_STEPS: usize = 1_000_000;
const LONGEST: usize = 16 << 20;
/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// A tensor as the pickle describes it: not yet held against its storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Name of the storage in the archive.
    pub(super) storage: String,
    pub(super) stored: Stored,
    /// Values in the storage.
    pub(super) count: usize,
    /// First value.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What stands under a name of the dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Tensor(View),
    /// Something else, such as `a number`.
    Other(&'static str),
}

/// Number of an object.
type Id = usize;

#[derive(Debug, Clone)]
enum Object<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Function(Function),
    Storage { key: &'a str, stored: Stored, count: usize },
    Tensor(View),
}

#[derive(Debug, Clone)]
enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageType(Stored),
}

/// The dictionary that the pickle makes: its names and what stands under them.
pub(super) fn dictionary(bytes: &[u8]) -> Result<Vec<(String, Named)>, String> {
    if bytes.len() > LONGEST {
        return Err(format!("a pickle of {} bytes: too long for a dictionary of tensors", bytes.len()));
    }
    let mut machine =
        Machine { bytes, at: 0, objects: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let top = machine.run().map_err(|why| format!("byte {} of its pickle: {why}", machine.at))?;
    let Object::Dict(pairs) = &machine.objects[top] else {
        let what = machine.objects[top].what();
        return Err(format!("it holds {what}, not a dictionary of tensors: save model.state_dict()"));
    };
    let named = |(key, value): &(Id, Id)| {
        let Object::Text(key) = &machine.objects[*key] else {
            return Err(format!("a name in its dictionary is {}, not a text", machine.objects[*key].what()));
        };
        let value = match &machine.objects[*value] {
            Object::Tensor(view) => Named::Tensor(view.clone()),
            other => Named::Other(other.what()),
        };
        Ok(((*key).to_owned(), value))
    };
    pairs.iter().map(named).collect()
}

impl Object<'_> {
    fn what(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Bool => "a truth value",
            Self::Int(_) | Self::Float => "a number",
            Self::Text(_) => "a text",
            Self::Tuple(_) => "a tuple",
            Self::List => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Function(_) => "a function",
            Self::Storage { .. } => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Takes steps until the pickle stops: the object that it leaves.
    fn run(&mut self) -> Result<Id, String> {
        for _ in 0..MOST_STEPS {
            let [code] = self.array()?;
            match code {
                b'.' => return self.pop(),
                // PROTO, FRAME
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.since_mark()?),
                b'2' => self.stack.push(self.top()?),
                b'N' => self.push(Object::None),
                0x88 | 0x89 => self.push(Object::Bool),
                b'K' => self.array().map(|[n]| self.push(Object::Int(n.into())))?,
                b'M' => self.array().map(|n| self.push(Object::Int(u16::from_le_bytes(n).into())))?,
                b'J' => self.array().map(|n| self.push(Object::Int(i32::from_le_bytes(n).into())))?,
                0x8a => self.long()?,
                b'G' => self.array::<8>().map(|_| self.push(Object::Float))?,
                b'X' => self.text_of(4)?,
                0x8c => self.text_of(1)?,
                0x8d => self.text_of(8)?,
                b')' => self.push(Object::Tuple(Vec::new())),
                0x85..=0x87 => self.tuple_of(usize::from(code - 0x84))?,
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Object::Tuple(items));
                }
                b']' => self.push(Object::List),
                // APPEND, APPENDS
                b'a' => drop(self.pop()?),
                b'e' => drop(self.since_mark()?),
                b'}' => self.push(Object::Dict(Vec::new())),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(&items)?;
                }
                b'q' => self.array().and_then(|[n]| self.remember(n.into()))?,
                b'r' => self.array().and_then(|n| self.remember(u32::from_le_bytes(n)))?,
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => self.array().and_then(|[n]| self.recall(n.into()))?,
                b'j' => self.array().and_then(|n| self.recall(u32::from_le_bytes(n)))?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.objects[module], &self.objects[name]) {
                        (Object::Text(module), Object::Text(name)) => self.global(module, name)?,
                        _ => return Err("a function without a name".into()),
                    }
                }
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                // BUILD: attributes, of which a dictionary of tensors has none that count (`_metadata`).
                b'b' => {
                    self.pop()?;
                    if !matches!(self.objects[self.top()?], Object::Dict(_)) {
                        return Err("attributes of something that is no dictionary".into());
                    }
                }
                b'i' | b'o' | 0x81 | 0x92 => {
                    return Err("it makes an object of a class, which would execute code".into());
                }
                0x82..=0x84 => return Err("it refers to an extension, which would execute code".into()),
                other => return Err(format!("step {other:#04x} is none that a dictionary of tensors needs")),
            }
        }
        Err(format!("more than {MOST_STEPS} steps"))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count)).ok_or("cut short")?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("cut short")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "a name that is not UTF-8".into())
    }

    fn push(&mut self, object: Object<'a>) {
        self.objects.push(object);
        self.stack.push(self.objects.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| "nothing on the stack".into()),
            false => Err("nothing on the stack".into()),
        }
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "nothing on the stack".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple_of(&mut self, count: usize) -> Result<(), String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Object::Tuple(items));
        Ok(())
    }

    fn text_of(&mut self, width: usize) -> Result<(), String> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.take(width as u64)?);
        let text =
            std::str::from_utf8(self.take(u64::from_le_bytes(length))?).map_err(|_| "a text that is not UTF-8")?;
        self.push(Object::Text(text));
        Ok(())
    }

    /// LONG1: up to 8 bytes of them.
    fn long(&mut self) -> Result<(), String> {
        let [length] = self.array()?;
        let bytes = self.take(length.into())?;
        if bytes.len() > 8 {
            return Err(format!("a number of {length} bytes"));
        }
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut number = [fill; 8];
        number[..bytes.len()].copy_from_slice(bytes);
        self.push(Object::Int(i64::from_le_bytes(number)));
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let id = self.memo.get(&place).ok_or_else(|| format!("nothing was remembered as {place}"))?;
        self.stack.push(*id);
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.objects[top] {
            Object::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Object::Dict(_) => return Err("a name without a value".into()),
            _ => return Err("names and values for something that is no dictionary".into()),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let function = match (module, name) {
            ("collections", "OrderedDict") => Function::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Function::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Function::RebuildParameter,
            ("torch", kind) if kind.ends_with("Storage") => Function::StorageType(stored(kind)),
            _ => {
                return Err(format!(
                    "it names {module}.{name}, and calling that would execute code: refused. A file of tensors alone is made by \
                     torch.save(model.state_dict(), FILE)"
                ));
            }
        };
        self.push(Object::Function(function));
        Ok(())
    }

    /// BINPERSID: `("storage", type, key, device, count)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let found = match &self.objects[id] {
            Object::Tuple(items) => match items.iter().map(|id| &self.objects[*id]).collect::<Vec<_>>()[..] {
                [
                    Object::Text("storage"),
                    Object::Function(Function::StorageType(stored)),
                    Object::Text(key),
                    Object::Text(_),
                    Object::Int(count),
                ] => usize::try_from(*count).ok().map(|count| Object::Storage { key, stored: stored.clone(), count }),
                _ => None,
            },
            _ => None,
        };
        self.push(found.ok_or("a reference that is not to a storage of numbers")?);
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Object::Tuple(arguments) = &self.objects[arguments] else {
            return Err("a call without arguments".into());
        };
        let made = match (&self.objects[function], &arguments[..]) {
            (Object::Function(Function::OrderedDict), []) => Object::Dict(Vec::new()),
            (Object::Function(Function::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                Object::Tensor(self.view(*storage, *offset, *shape, *strides)?)
            }
            (Object::Function(Function::RebuildParameter), [data, ..]) => match &self.objects[*data] {
                Object::Tensor(view) => Object::Tensor(view.clone()),
                other => return Err(format!("a parameter of {}", other.what())),
            },
            (Object::Function(function), _) => return Err(format!("{function:?} with other arguments than it takes")),
            (other, _) => return Err(format!("a call of {}", other.what())),
        };
        self.push(made);
        Ok(())
    }

    fn view(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<View, String> {
        let Object::Storage { key, stored, count } = &self.objects[storage] else {
            return Err(format!("a tensor in {}", self.objects[storage].what()));
        };
        let number = |id: Id| match &self.objects[id] {
            Object::Int(n) => {
                usize::try_from(*n).map_err(|_| format!("a tensor with a dimension, stride or offset of {n}"))
            }
            other => Err(format!("a tensor with {} for a dimension, stride or offset", other.what())),
        };
        let numbers = |id: Id| match &self.objects[id] {
            Object::Tuple(items) if items.len() <= MOST_DIMENSIONS => items.iter().map(|id| number(*id)).collect(),
            _ => Err(format!("a tensor of more than {MOST_DIMENSIONS} dimensions, or of none")),
        };
        let (shape, strides): (Vec<usize>, Vec<usize>) = (numbers(shape)?, numbers(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("a tensor of shape {shape:?} with strides {strides:?}"));
        }
        let (storage, stored) = ((*key).to_owned(), stored.clone());
        Ok(View { storage, stored, count: *count, offset: number(offset)?, shape, strides })
    }
}

fn stored(storage: &str) -> Stored {
    Stored::Plain(match storage {
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "DoubleStorage" => DType::F64,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ByteStorage" => DType::U8,
        other => return Stored::Other(other.to_owned()),
    })
}
