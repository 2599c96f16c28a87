//! Whole-system tests of Tokenkeep: the simulation here, real servers and processes under `tests/`.

pub mod sim;
