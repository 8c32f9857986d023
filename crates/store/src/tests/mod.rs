//! Tests of the store. [`suite`] is what every backend must do; the rest is about one of them.

mod suite;
