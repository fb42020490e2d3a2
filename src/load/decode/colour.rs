//! Grey and CMYK to RGB, and colour profiles.
//!
//! A profile stays with an image only while it describes its pixels: a CMYK or grey profile does not fit the RGB that
//! leaves here and is dropped. Converting to sRGB uses the profile where it can be used; a broken one, or one for another
//! kind of pixels, is ignored, as browsers do, and the pixels are taken for sRGB. The intent is relative colorimetric.
//! (Converted pixels come out of moxcms' vector code; they are the one thing here that another CPU might round otherwise.)

use moxcms::{ColorProfile, DataColorSpace, Layout, RenderingIntent, TransformOptions};

use super::{Pixels, Raw, triples};
use crate::load::config::Icc;

/// What [`to_rgb`] gives.
pub(super) struct Coloured {
    /// `[H, W, 3]`.
    pub(super) rgb: Vec<u8>,
    /// The profile of `rgb`, if one is to be kept.
    pub(super) icc: Option<Vec<u8>>,
    /// True if values changed, other than by writing grey three times.
    pub(super) changed: bool,
}

/// Pixels of any kind to RGB.
pub(super) fn to_rgb(raw: Raw, icc: Icc) -> Coloured {
    if icc == Icc::Srgb
        && let Some(rgb) = raw.icc.as_deref().and_then(|profile| converted(&raw.pixels, profile))
    {
        return Coloured { rgb, icc: None, changed: true };
    }
    let for_rgb = |profile: &Vec<u8>| profile.get(16..20) == Some(b"RGB ");
    let kept = raw.icc.filter(|profile| icc == Icc::Keep && for_rgb(profile));
    match raw.pixels {
        Pixels::Rgb(rgb) => Coloured { rgb, icc: kept, changed: false },
        Pixels::Grey(grey) => Coloured { rgb: triples(&grey, |v| [v, v, v]), icc: kept, changed: false },
        Pixels::Cmyk(inks) => {
            Coloured { rgb: inks.as_chunks().0.iter().flat_map(cmyk_to_rgb).collect(), icc: None, changed: true }
        }
    }
}

/// As Pillow (Convert.c, cmyk2rgb): what the black leaves, less the ink's share of it, the product rounded.
fn cmyk_to_rgb([c, m, y, k]: &[u8; 4]) -> [u8; 3] {
    let left = u32::from(255 - *k);
    [c, m, y].map(|ink| {
        let product = u32::from(*ink) * left + 128;
        (left - (((product >> 8) + product) >> 8)) as u8
    })
}

/// The pixels in sRGB by `profile`; `None` if it cannot be used for them.
fn converted(pixels: &Pixels, profile: &[u8]) -> Option<Vec<u8>> {
    let profile = ColorProfile::new_from_slice(profile).ok()?;
    let (data, layout, channels) = match (pixels, profile.color_space) {
        (Pixels::Rgb(data), DataColorSpace::Rgb) => (data, Layout::Rgb, 3),
        (Pixels::Grey(data), DataColorSpace::Gray) => (data, Layout::Gray, 1),
        (Pixels::Cmyk(data), DataColorSpace::Cmyk) => (data, Layout::Rgba, 4),
        _ => return None,
    };
    let options =
        TransformOptions { rendering_intent: RenderingIntent::RelativeColorimetric, ..TransformOptions::default() };
    let transform = profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, options).ok()?;
    let mut rgb = vec![0; data.len() / channels * 3];
    transform.transform(data, &mut rgb).ok()?;
    Some(rgb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inks() {
        assert_eq!(cmyk_to_rgb(&[0, 0, 0, 0]), [255, 255, 255]);
        assert_eq!(cmyk_to_rgb(&[255, 0, 0, 0]), [0, 255, 255]);
        assert_eq!(cmyk_to_rgb(&[9, 99, 200, 255]), [0, 0, 0]);
        // Pillow: Image.new("CMYK", (1, 1), (10, 100, 200, 50)).convert("RGB").getpixel((0, 0))
        assert_eq!(cmyk_to_rgb(&[10, 100, 200, 50]), [197, 125, 44]);
    }
}
