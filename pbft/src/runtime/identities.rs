//! Identities for a whole group at once.

use std::{num::NonZero, thread};

use crate::crypto::{Identity, InvalidIdentity, SeedRng};

/// Generates identities of 2048 bits on all processors: how long one takes is a matter of luck, a
/// fraction of a second, and a group needs several. Each comes from 32 bytes of `rng`, so the same
/// stream gives the same identities, whatever the number of processors.
///
/// # Errors
/// When a generation fails.
pub fn generate_identities(count: usize, rng: &mut SeedRng) -> Result<Vec<Identity>, InvalidIdentity> {
    let seeds: Vec<_> = (0..count).map(|_| rng.next_seed()).collect();
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(count.max(1));
    let mut identities: Vec<_> = (0..count).map(|_| None).collect();
    thread::scope(|scope| {
        let seeds = &seeds;
        let workers = (0..threads).map(|first| {
            scope.spawn(move || {
                let own = (first..count).step_by(threads);
                own.map(|at| (at, Identity::generate(&mut SeedRng::new(seeds[at])))).collect()
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            let made: Vec<_> = worker.join().expect("generation doesn't panic");
            made.into_iter().for_each(|(at, identity)| identities[at] = Some(identity));
        }
    });
    identities.into_iter().map(|identity| identity.expect("each index is some worker's")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_depend_on_the_stream_only() {
        let made = generate_identities(3, &mut SeedRng::new([2; 32])).unwrap();
        let mut rng = SeedRng::new([2; 32]);
        for identity in made {
            let seed = rng.next_seed();
            let alone = Identity::generate(&mut SeedRng::new(seed)).unwrap();
            assert_eq!(alone.public_key(), identity.public_key());
        }
    }
}
