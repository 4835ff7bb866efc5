//! What the end-to-end tests share: a platform of real processes.
