//! Where a model computes, and in which type.

use candle_core::{DType, Device};

use super::config::{DeviceName, DtypeName};
use crate::error::{Error, Result};

/// A device with the type that models compute in there.
#[derive(Debug, Clone)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// `F32` or `BF16`.
    pub dtype: DType,
    /// Such as `cpu` or `cuda:0`.
    pub name: String,
    /// Why it was chosen, for people.
    pub why: String,
}

impl Place {
    /// Finds the device. `Error::Config` if it is not there, or cannot compute in that type.
    pub fn find(device: DeviceName, dtype: DtypeName) -> Result<Self> {
        let (device, name, why) = match device {
            DeviceName::Cpu => (Device::Cpu, "cpu".to_owned(), "asked for".to_owned()),
            DeviceName::Cuda(n) => {
                let found = cuda(n).map_err(|why| Error::Config(format!("device cuda:{n}: {why}")))?;
                (found, format!("cuda:{n}"), "asked for".to_owned())
            }
            DeviceName::Auto => match cuda(0) {
                Ok(found) => (found, "cuda:0".to_owned(), "a GPU was found".to_owned()),
                Err(why) => (Device::Cpu, "cpu".to_owned(), why),
            },
        };
        let dtype = match (dtype, device.is_cpu()) {
            (DtypeName::F32, _) | (DtypeName::Auto, true) => DType::F32,
            (DtypeName::Bf16 | DtypeName::Auto, false) => DType::BF16,
            (DtypeName::Bf16, true) => {
                return Err(Error::Config(
                    "dtype bf16: on the CPU sums would be made in bf16 too, with errors of a tenth and more: use f32"
                        .into(),
                ));
            }
        };
        Ok(Self { device, dtype, name, why })
    }

    /// `f32` or `bf16`.
    pub fn dtype_name(&self) -> &'static str {
        if self.dtype == DType::BF16 { "bf16" } else { "f32" }
    }
}

/// The GPU of number `n`, or why there is none.
#[cfg(feature = "cuda")]
fn cuda(n: usize) -> std::result::Result<Device, String> {
    Device::new_cuda(n).map_err(|error| format!("the driver found no such GPU ({error})"))
}

/// Says that this binary cannot.
#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> std::result::Result<Device, String> {
    Err("this binary was built without CUDA (cargo build --release --features cuda)".into())
}
