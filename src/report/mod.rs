//! TODO report
