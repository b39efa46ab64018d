//! Wakes a sleeping shard, and only a sleeping one.
//!
//! The owner of a queue sleeps in its engine; others push into the queue and ring. A ring costs a
//! system call, so it is made only when the owner said that it sleeps:
//!
//! | owner | other thread |
//! |---|---|
//! | says "asleep" | pushes |
//! | fence | fence |
//! | looks into its queues once more | reads "asleep" |
//! | sleeps if they are empty | writes the eventfd if it was set |
//!
//! # Invariant
//! Whatever the interleaving, either the owner sees the push before it sleeps or the other thread
//! sees that it sleeps: both fences are sequentially consistent, so one of them comes first.
