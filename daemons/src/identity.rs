//! The RSA identities of the members of worker sets, kept by the set's name.
//!
//! `<data>/identities/add-0/` holds `worker.der`, `replica-0.der`, … (PKCS#8, readable by the owner
//! alone) and beside each its public half as `….pub`; `replica-0.1.der` is of who took a lost replica's place
//! in configuration 1 of the set's group, by order of the cluster service, which signs with
//! `<data>/identities/operator.der`. A set that comes back has the keys it had, in this
//! life of the platform or in another. New ones are made in parallel; a few are kept in stock in
//! `spare/`, because making one takes a fair part of a second and a set wants to start at once.

use quorate_pbft::{
    Configuration, ReplicaId,
    crypto::{Identity, InvalidIdentity, InvalidPublicKey, PublicKey, SeedRng},
    membership::{Reconfigure, ReconfigureRefused},
};
#[cfg(feature = "kubernetes")]
use std::sync::Mutex;
use std::{
    fs,
    io::{self, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use zeroize::Zeroizing;

/// The identities under one data folder.
#[derive(Clone, Debug)]
pub struct Identities {
    folder: PathBuf,
}

/// Where a member's private key lies, and its public half.
#[derive(Clone, Debug)]
pub struct Member {
    /// The file with the private key.
    pub path: PathBuf,
    /// The public half.
    pub public: PublicKey,
}

/// An identity that is kept nowhere yet.
#[cfg(feature = "kubernetes")]
pub(crate) struct Fresh {
    /// The private key (PKCS#8, DER).
    pub(crate) private: Zeroizing<Vec<u8>>,
    /// The public half.
    pub(crate) public: PublicKey,
}

/// The identities of one set.
#[derive(Clone, Debug)]
pub struct SetKeys {
    /// The set's name.
    pub set: String,
    /// The worker: the client of the replicas.
    pub worker: Member,
    /// The replicas in order of their index.
    pub replicas: Vec<Member>,
    /// Who may order that a replica is replaced: the cluster service.
    pub operator: PublicKey,
}

/// Why identities can't be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder can't be read or written.
    #[error("identity {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no identity.
    #[error("{} holds no identity: {source}; move it away to have a new one made", path.display())]
    Private {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InvalidIdentity,
    },
    /// A file holds no public key.
    #[error("{} holds no public key: {source}; remove it to have it written again", path.display())]
    Public {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InvalidPublicKey,
    },
    /// A key could not be made.
    #[error("can't make an identity: {0}")]
    Generation(#[source] InvalidIdentity),
    /// They can't be kept where the set's pods would find them.
    #[error("the identities of set {set} can't be kept: {source}")]
    Keeping {
        /// The set.
        set: String,
        /// What stood in the way.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The set's group would not follow the order.
    #[error("replica {index} of set {set} can't be replaced: {source}")]
    Order {
        /// The set.
        set: String,
        /// The replica.
        index: u32,
        /// Why not.
        source: ReconfigureRefused,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes")]
    Randomness,
}

impl Identities {
    /// The identities under `data`; the folder is made when it is first needed.
    #[must_use]
    pub fn at(data: &Path) -> Self {
        Self { folder: data.join("identities") }
    }

    /// The keys of a set with so many replicas, making those that are missing.
    ///
    /// Blocks: making keys takes seconds in the worst case.
    ///
    /// # Errors
    /// When files can't be read or written, or do not hold keys.
    pub fn obtain(&self, set: &str, replicas: u32) -> Result<SetKeys, IdentityError> {
        let mut paths = vec![self.operator()];
        paths.extend(members(replicas).map(|index| self.path(set, &member(index))));
        let mut keys = self.at_paths(paths)?.into_iter();
        let [operator, worker] = [(); 2].map(|()| keys.next().expect("there is one for each path"));
        Ok(SetKeys { set: set.into(), worker, replicas: keys.collect(), operator: operator.public })
    }

    /// The order that the replica with this index of a set with these members has its place given to
    /// another one, whose key is made. Blocks.
    ///
    /// # Errors
    /// When files can't be read or written, or the set's group would refuse the order.
    pub fn order(
        &self,
        set: &str,
        members: &Configuration,
        index: u32,
    ) -> Result<Reconfigure, IdentityError> {
        let name = successor(index, members.number + 1);
        let fresh = self.at_paths(vec![self.path(set, &name)])?.remove(0);
        order(set, members, index, fresh.public, &load(&self.operator())?)
    }

    /// The cluster service's own key.
    fn operator(&self) -> PathBuf {
        self.folder.join("operator.der")
    }

    /// Where the private key of a set's member lies that has this name.
    pub(crate) fn path(&self, set: &str, name: &str) -> PathBuf {
        self.folder.join(set).join(format!("{name}.der"))
    }

    /// The keys at these paths, making those that are missing.
    fn at_paths(&self, paths: Vec<PathBuf>) -> Result<Vec<Member>, IdentityError> {
        let missing: Vec<_> = paths.iter().filter(|path| !path.exists()).cloned().collect();
        for path in &missing {
            create_private_folder(path.parent().unwrap_or(&self.folder))?;
        }
        let unstocked: Vec<_> = missing.into_iter().filter(|path| !self.take_spare(path)).collect();
        in_parallel(&unstocked, |path| install(path, &generate()?))?;
        paths.into_iter().map(load_public).collect()
    }

    /// Does on another thread what blocks.
    pub(crate) async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, IdentityError> + Send + 'static,
    ) -> Result<T, IdentityError> {
        let identities = self.clone();
        match tokio::task::spawn_blocking(move || work(&identities)).await {
            Ok(done) => done,
            // A panic there is the end of the runtime, or was said.
            Err(_) => std::future::pending().await,
        }
    }

    /// So many identities that are kept by whoever asks: those that lie ready, and new ones. Blocks.
    ///
    /// # Errors
    /// When they can't be made, or one that lies ready can't be read.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn fresh(&self, count: usize) -> Result<Vec<Fresh>, IdentityError> {
        static UNIQUE: AtomicUsize = AtomicUsize::new(0);
        let made = Mutex::new(Vec::with_capacity(count));
        let keep = |identity: &Identity| {
            let public = identity.public_key().clone();
            let fresh = Fresh { private: identity.to_pkcs8(), public };
            made.lock().expect("nothing panics while it is held").push(fresh);
        };
        create_private_folder(&self.folder)?;
        // Two who make sets at once take one each.
        let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
        let taken = self.folder.join(format!("taken-{}-{unique}.der", std::process::id()));
        let mut missing = count;
        while missing > 0 && self.take_spare(&taken) {
            let identity = load(&taken);
            let _ = fs::remove_file(taken.with_extension("pub"));
            fs::remove_file(&taken).map_err(file(&taken))?;
            keep(&identity?);
            missing -= 1;
        }
        in_parallel(&vec![(); missing], |()| generate().map(|identity| keep(&identity)))?;
        Ok(made.into_inner().expect("nothing panicked while it was held"))
    }

    /// Makes spare identities until `stock` of them lie ready. Blocks.
    ///
    /// # Errors
    /// When files can't be written.
    pub fn stock(&self, stock: usize) -> Result<(), IdentityError> {
        let folder = self.folder.join("spare");
        create_private_folder(&folder)?;
        while spares(&folder).len() < stock {
            let identity = generate()?;
            let path = folder.join(format!("{}.der", identity.public_key().fingerprint()));
            install(&path, &identity)?;
        }
        Ok(())
    }

    /// All sets that have keys, in order of their names.
    ///
    /// # Errors
    /// When files can't be read or do not hold keys.
    pub fn sets(&self) -> Result<Vec<SetKeys>, IdentityError> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Ok(Vec::new());
        };
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names.retain(|name| self.folder.join(name).join("worker.der").exists());
        names
            .into_iter()
            .map(|set| {
                let folder = self.folder.join(&set);
                let mut replicas = 0;
                while folder.join(format!("replica-{replicas}.der")).exists() {
                    replicas += 1;
                }
                self.obtain(&set, replicas)
            })
            .collect()
    }

    /// Puts a spare identity at `path`; false when there is none.
    fn take_spare(&self, path: &Path) -> bool {
        spares(&self.folder.join("spare")).into_iter().any(|spare| {
            // Renaming claims it: of two who try, one fails. Linking then refuses to replace a key that
            // another process has put there meanwhile.
            let claimed = path.with_extension(format!("{}.claimed", std::process::id()));
            let public = spare.with_extension("pub");
            let taken = fs::rename(&spare, &claimed).is_ok() && fs::hard_link(&claimed, path).is_ok();
            if taken {
                let _ = fs::rename(public, path.with_extension("pub"));
            }
            let _ = fs::remove_file(&claimed);
            taken
        })
    }
}

/// Reads a private key.
///
/// # Errors
/// When the file can't be read or does not hold one.
pub fn load(path: &Path) -> Result<Identity, IdentityError> {
    let der = Zeroizing::new(fs::read(path).map_err(file(path))?);
    Identity::from_pkcs8(&der).map_err(|source| IdentityError::Private { path: path.into(), source })
}

/// 32 bytes from the operating system's generator.
///
/// # Errors
/// When it has none.
pub fn seed() -> Result<[u8; 32], IdentityError> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| IdentityError::Randomness)?;
    Ok(seed)
}

fn generate() -> Result<Identity, IdentityError> {
    Identity::generate(&mut SeedRng::new(seed()?)).map_err(IdentityError::Generation)
}

/// The members of a set with so many replicas: its worker, which has no index, and they.
pub(crate) fn members(replicas: u32) -> impl Iterator<Item = Option<u32>> {
    std::iter::once(None).chain((0..replicas).map(Some))
}

/// What a member's keys are kept under.
pub(crate) fn member(index: Option<u32>) -> String {
    index.map_or_else(|| "worker".into(), |index| format!("replica-{index}"))
}

/// What the key is kept under of who has had a replica's place since a configuration of its set's group.
pub(crate) fn successor(index: u32, number: u64) -> String {
    format!("{}.{number}", member(Some(index)))
}

/// The operator's order that a replica's place is given to who has a fresh key.
pub(crate) fn order(
    set: &str,
    members: &Configuration,
    index: u32,
    fresh: PublicKey,
    operator: &Identity,
) -> Result<Reconfigure, IdentityError> {
    let order = Reconfigure::sign(members, vec![(ReplicaId(index), fresh)], operator);
    order.map_err(|source| IdentityError::Order { set: set.into(), index, source })
}

/// The public half, without touching the private one where that is not needed: checking a private key
/// costs far more than reading a public one, and the control plane never signs.
fn load_public(path: PathBuf) -> Result<Member, IdentityError> {
    let beside = path.with_extension("pub");
    let public = match fs::read(&beside) {
        Ok(der) => PublicKey::from_der(der.into())
            .map_err(|source| IdentityError::Public { path: beside, source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let public = load(&path)?.public_key().clone();
            write_new(&beside, &public.to_der())?;
            public
        }
        Err(source) => return Err(IdentityError::File { path: beside, source }),
    };
    Ok(Member { path, public })
}

/// Writes a key pair. Another process may be doing the same: the first to put the private half there
/// wins, and both use that.
fn install(path: &Path, identity: &Identity) -> Result<(), IdentityError> {
    // A public half whose private one was moved away is of another pair. Should another process have
    // written it just now, it is derived again.
    let _ = fs::remove_file(path.with_extension("pub"));
    if write_new(path, &identity.to_pkcs8())? {
        write_new(&path.with_extension("pub"), &identity.public_key().to_der())?;
    }
    Ok(())
}

/// Puts a whole file there, or nothing: written beside and linked, so that no reader sees half of it.
/// False when there was one already.
fn write_new(path: &Path, bytes: &[u8]) -> Result<bool, IdentityError> {
    static UNIQUE: AtomicUsize = AtomicUsize::new(0);
    let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let draft = path.with_extension(format!("{}-{unique}.draft", std::process::id()));
    let written = private_file(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(IdentityError::File { path: path.into(), source }),
    }
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

fn create_private_folder(path: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(file(path))
}

fn spares(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "der") && path.with_extension("pub").exists())
        .collect()
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> IdentityError + '_ {
    |source| IdentityError::File { path: path.into(), source }
}

/// Runs `work` on each item, on as many threads as there are cores; the first error wins.
fn in_parallel<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), IdentityError> + Sync,
) -> Result<(), IdentityError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(items.len());
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("making keys does not panic"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_comes_back_has_the_keys_it_had() {
        let data = tempfile::tempdir().unwrap();
        let identities = Identities::at(data.path());
        let first = identities.obtain("add-0", 1).unwrap();
        let again = identities.obtain("add-0", 1).unwrap();
        assert_eq!(first.worker.public, again.worker.public);
        assert_eq!(first.replicas[0].public, again.replicas[0].public);
        assert_ne!(first.worker.public, first.replicas[0].public);
        assert_eq!(load(&first.worker.path).unwrap().public_key(), &first.worker.public);
        assert_eq!(identities.sets().unwrap().len(), 1);
    }

    #[test]
    fn a_key_that_was_moved_away_is_replaced_with_both_its_halves() {
        let data = tempfile::tempdir().unwrap();
        let identities = Identities::at(data.path());
        let before = identities.obtain("add-0", 0).unwrap().worker;
        fs::remove_file(&before.path).unwrap();
        let after = identities.obtain("add-0", 0).unwrap().worker;
        assert_ne!(after.public, before.public);
        assert_eq!(load(&after.path).unwrap().public_key(), &after.public);
    }

    #[test]
    fn a_spare_is_used_once() {
        let data = tempfile::tempdir().unwrap();
        let identities = Identities::at(data.path());
        identities.stock(1).unwrap();
        let spare = spares(&data.path().join("identities/spare")).pop().unwrap();
        let spare = load_public(spare).unwrap().public;
        let set = identities.obtain("mul-0", 1).unwrap();
        let keys = [&set.worker.public, &set.replicas[0].public, &set.operator];
        assert_eq!(keys.iter().filter(|key| ***key == spare).count(), 1);
        assert!(spares(&data.path().join("identities/spare")).is_empty());
    }

    #[test]
    fn processes_that_make_the_same_set_at_once_agree() {
        let data = tempfile::tempdir().unwrap();
        let identities = Identities::at(data.path());
        let keys: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| identities.obtain("sub-0", 0).unwrap().worker.public))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(load(&data.path().join("identities/sub-0/worker.der")).unwrap().public_key(), &keys[0]);
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn fresh_ones_are_taken_from_the_stock_and_kept_nowhere() {
        let data = tempfile::tempdir().unwrap();
        let identities = Identities::at(data.path());
        identities.stock(1).unwrap();
        let folder = data.path().join("identities/spare");
        let spare = load_public(spares(&folder).pop().unwrap()).unwrap().public;
        let fresh = identities.fresh(2).unwrap();
        assert_eq!(fresh.iter().filter(|identity| identity.public == spare).count(), 1);
        for identity in &fresh {
            assert_eq!(Identity::from_pkcs8(&identity.private).unwrap().public_key(), &identity.public);
        }
        let left = |folder: &Path| {
            fs::read_dir(folder).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count()
        };
        assert_eq!((left(&folder), left(&data.path().join("identities"))), (0, 0));
    }

    #[cfg(unix)]
    #[test]
    fn private_keys_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let data = tempfile::tempdir().unwrap();
        let set = Identities::at(data.path()).obtain("add-0", 0).unwrap();
        let mode = fs::metadata(&set.worker.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
