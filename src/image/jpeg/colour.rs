//! RGB ↔ YCbCr in libjpeg's fixed point (16 fraction bits), and its chroma down- and upsampling.

use crate::image::Image;
use crate::vectors::vectorised;

/// 8-bit samples, rows of `stride`, both sides whole blocks of 8.
pub(super) struct Plane {
    pub(super) data: Vec<u8>,
    pub(super) stride: usize,
}

impl Plane {
    fn new(width: usize, height: usize) -> Self {
        let stride = width.next_multiple_of(8);
        Self { data: vec![0; stride * height.next_multiple_of(8)], stride }
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.stride..(y + 1) * self.stride]
    }

    fn row_mut(&mut self, y: usize) -> &mut [u8] {
        &mut self.data[y * self.stride..(y + 1) * self.stride]
    }

    /// Repeats row `last` down to the end.
    fn repeat_down(&mut self, last: usize) {
        let (done, rest) = self.data.split_at_mut((last + 1) * self.stride);
        for row in rest.chunks_exact_mut(self.stride) {
            row.copy_from_slice(&done[last * self.stride..]);
        }
    }
}

/// The luma plane, and the two chroma planes (if `coloured`) at 1/`across` and 1/`down` of its resolution. Edges are
/// repeated into the padding, in full resolution to the right and in the planes' own downwards, as libjpeg does: the
/// padding shares blocks with what is seen.
pub(super) fn separate(image: &Image, across: usize, down: usize, coloured: bool) -> (Plane, Vec<Plane>) {
    let size = image.size();
    let (w, h) = (size.width as usize, size.height as usize);
    let mut luma = Plane::new(w, h);
    let planes = if coloured { 2 } else { 0 };
    let mut chroma: Vec<Plane> = (0..planes).map(|_| Plane::new(w.div_ceil(across), h.div_ceil(down))).collect();
    // The rows of chroma in full resolution that one downsampled row is made from.
    let long = chroma.first().map_or(0, |plane| plane.stride * across);
    let mut full = [vec![0u8; long * down], vec![0u8; long * down]];
    for (y, pixels) in image.pixels().chunks_exact(w).enumerate() {
        let out = luma.row_mut(y);
        let nth = y % down;
        let [cb, cr] = full.each_mut().map(|rows| &mut rows[nth * long..(nth + 1) * long]);
        if coloured {
            to_ycc(pixels, out, cb, cr);
        } else {
            to_luma(pixels, out);
        }
        let edge = out[w - 1];
        out[w..].fill(edge);
        if !coloured {
            continue;
        }
        for row in [cb, cr] {
            let edge = row[w - 1];
            row[w..].fill(edge);
        }
        if nth == down - 1 || y == h - 1 {
            for (rows, plane) in full.iter_mut().zip(&mut chroma) {
                for missing in nth + 1..down {
                    rows.copy_within(nth * long..(nth + 1) * long, missing * long);
                }
                downsample(rows, across, down, plane.row_mut(y / down));
            }
        }
    }
    luma.repeat_down(h - 1);
    for plane in &mut chroma {
        plane.repeat_down((h - 1) / down);
    }
    (luma, chroma)
}

vectorised! {
    fn to_luma(pixels: &[[u8; 3]], luma: &mut [u8]) {
        for (luma, pixel) in luma.iter_mut().zip(pixels) {
            let [r, g, b] = [i32::from(pixel[0]), i32::from(pixel[1]), i32::from(pixel[2])];
            *luma = ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) as u8;
        }
    }

    fn to_ycc(pixels: &[[u8; 3]], luma: &mut [u8], cb: &mut [u8], cr: &mut [u8]) {
        for (((luma, cb), cr), pixel) in luma.iter_mut().zip(cb).zip(cr).zip(pixels) {
            let [r, g, b] = [i32::from(pixel[0]), i32::from(pixel[1]), i32::from(pixel[2])];
            *luma = ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) as u8;
            *cb = ((-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16) as u8;
            *cr = ((32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16) as u8;
        }
    }

    /// Averages of `across`×`down` samples; halves are rounded down and up in turn.
    fn downsample(rows: &[u8], across: usize, down: usize, out: &mut [u8]) {
        let (first, second) = rows.split_at(rows.len() / down);
        let (twos, last) = out.as_chunks_mut::<2>();
        match (across, down) {
            (2, 2) => {
                let average = |a: &[u8; 2], b: &[u8; 2], bias: u16| ((sum(a) + sum(b) + bias) >> 2) as u8;
                let (first, second) = (pairs(first), pairs(second));
                for ((two, a), b) in twos.iter_mut().zip(first.as_chunks::<2>().0).zip(second.as_chunks::<2>().0) {
                    *two = [average(&a[0], &b[0], 1), average(&a[1], &b[1], 2)];
                }
                if let ([last], [.., a], [.., b]) = (last, first, second) {
                    *last = average(a, b, 1);
                }
            }
            (2, _) => {
                let average = |a: &[u8; 2], bias: u16| ((sum(a) + bias) >> 1) as u8;
                let first = pairs(first);
                for (two, a) in twos.iter_mut().zip(first.as_chunks::<2>().0) {
                    *two = [average(&a[0], 0), average(&a[1], 1)];
                }
                if let ([last], [.., a]) = (last, first) {
                    *last = average(a, 0);
                }
            }
            _ => out.copy_from_slice(first),
        }
    }
}

fn pairs(row: &[u8]) -> &[[u8; 2]] {
    row.as_chunks::<2>().0
}

fn sum(pair: &[u8; 2]) -> u16 {
    u16::from(pair[0]) + u16::from(pair[1])
}

/// The decoded chroma planes and how they were sampled.
pub(super) struct Chroma<'a> {
    pub(super) cb: &'a Plane,
    pub(super) cr: &'a Plane,
    pub(super) across: usize,
    pub(super) down: usize,
}

impl Chroma<'_> {
    /// Row `y` of `plane` in full resolution, for an image of `height` rows. `sums` holds one row of sums, with a neighbour
    /// on either side.
    fn upsample(&self, plane: &Plane, y: usize, height: usize, sums: &mut [u16], out: &mut [u8]) {
        let narrow = out.len().div_ceil(self.across);
        let short = height.div_ceil(self.down);
        let row = &plane.row(y / self.down)[..narrow];
        if self.across == 1 {
            out.copy_from_slice(row);
            return;
        }
        // libjpeg takes the triangle filter only for planes wider than two samples.
        if narrow <= 2 {
            for (x, out) in out.iter_mut().enumerate() {
                *out = row[x / 2];
            }
            return;
        }
        let sums = &mut sums[..narrow + 2];
        if self.down == 2 {
            let at = y / 2;
            let next = if y.is_multiple_of(2) { at.saturating_sub(1) } else { (at + 1).min(short - 1) };
            triangle_down(row, &plane.row(next)[..narrow], &mut sums[1..=narrow]);
        } else {
            for (sum, near) in sums[1..].iter_mut().zip(row) {
                *sum = u16::from(*near);
            }
        }
        sums[0] = sums[1];
        sums[narrow + 1] = sums[narrow];
        if self.down == 2 {
            triangle_across::<4>(sums, [8, 7], out);
        } else {
            triangle_across::<2>(sums, [1, 2], out);
        }
    }
}

vectorised! {
    /// Three parts of the nearer row, one of the next.
    fn triangle_down(near: &[u8], far: &[u8], sums: &mut [u16]) {
        for ((sum, near), far) in sums.iter_mut().zip(near).zip(far) {
            *sum = 3 * u16::from(*near) + u16::from(*far);
        }
    }

    /// Two samples from each sum, three parts of it and one of the neighbour on that side.
    fn triangle_across<const SHIFT: u32>(sums: &[u16], biases: [u16; 2], out: &mut [u8]) {
        let count = sums.len() - 2;
        let (left, own, right) = (&sums[..count], &sums[1..=count], &sums[2..]);
        let (twos, last) = out.as_chunks_mut::<2>();
        for (((two, left), own), right) in twos.iter_mut().zip(left).zip(own).zip(right) {
            let own = 3 * own;
            *two = [((own + left + biases[0]) >> SHIFT) as u8, ((own + right + biases[1]) >> SHIFT) as u8];
        }
        if let [last] = last {
            *last = ((3 * own[count - 1] + left[count - 1] + biases[0]) >> SHIFT) as u8;
        }
    }

    fn to_rgb(luma: &[u8], cb: &[u8], cr: &[u8], pixels: &mut [[u8; 3]]) {
        for (((pixel, luma), cb), cr) in pixels.iter_mut().zip(luma).zip(cb).zip(cr) {
            *pixel = ycc_to_rgb(*luma, *cb, *cr);
        }
    }
}

/// JFIF's YCbCr to RGB in libjpeg's fixed point (jdcolor.c): 1.402, 0.34414, 0.71414 and 1.772 with 16 fraction bits, rounded.
#[inline(always)]
pub(crate) fn ycc_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let clip = |level: i32| level.clamp(0, 255) as u8;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    [
        clip(y + ((91881 * cr + HALF) >> 16)),
        clip(y + ((-22554 * cb - 46802 * cr + HALF) >> 16)),
        clip(y + ((116_130 * cb + HALF) >> 16)),
    ]
}

/// YCbCr → RGB into `image`.
pub(super) fn join(image: &mut Image, luma: &Plane, chroma: &Chroma<'_>) {
    let (w, h) = (image.width() as usize, image.height() as usize);
    let mut sums = vec![0u16; w + 2];
    let (mut cb, mut cr) = (vec![0u8; w], vec![0u8; w]);
    for (y, pixels) in image.pixels_mut().chunks_exact_mut(w).enumerate() {
        chroma.upsample(chroma.cb, y, h, &mut sums, &mut cb);
        chroma.upsample(chroma.cr, y, h, &mut sums, &mut cr);
        to_rgb(luma.row(y), &cb, &cr, pixels);
    }
}

/// Luma into all three channels of `image`.
pub(super) fn spread(image: &mut Image, luma: &Plane) {
    let w = image.width() as usize;
    for (y, pixels) in image.pixels_mut().chunks_exact_mut(w).enumerate() {
        for (pixel, level) in pixels.iter_mut().zip(luma.row(y)) {
            *pixel = [*level; 3];
        }
    }
}
