//! The Quorate platform: daemons around the three libraries.
