//! TODO score
