//! TODO sink
