//! TODO degrade
