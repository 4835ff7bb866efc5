//! Bounded bytes ⇄ messages.
