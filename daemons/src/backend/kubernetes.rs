//! Pods as Kubernetes has them: one object for each life of a pod of a set.
//!
//! A watch shows what becomes of the objects, and a conversation with each pod that runs what it says; both
//! go on by themselves when the API server, the pod or this process was away, and nothing that can't be
//! seen for a while is taken for ended. What is asked of the API server fails when it does not answer, and
//! is asked again by the cluster service. A pod that ended is not started again by Kubernetes
//! (`restartPolicy: Never`): that is the cluster service's decision.

mod budgets;
mod call;
mod converse;
mod lives;
mod manifest;
mod secrets;
mod status;

pub use call::CallError;

use super::{Backend, BackendError, PodDaemon, PodEvent, RunningPod, Stop};
use crate::{
    config::Kubernetes,
    hex,
    identity::{self, Identities, IdentityError, SetKeys},
    pod::{PodSpec, Told},
    tls::Authority,
    wires::Wires,
};
use async_trait::async_trait;
use budgets::Budgets;
use call::{Call, PATIENCE};
use converse::Heard;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher::{self, watcher},
};
use lives::Lives;
use quorate_pbft::{Configuration, membership::Reconfigure};
use secrets::{CertifyError, Secrets};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// How long one watch lasts: then the next one begins where it ended. One whose other end is gone without
/// a word is noticed that late.
const WATCH_SECONDS: u32 = 30;

/// Between tries to watch; doubles, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// Between looks at what only time changes.
const TICK: Duration = Duration::from_secs(1);

/// What was heard and not yet told on.
const HEARD_MAX: usize = 256;

/// Pods in a Kubernetes cluster.
pub struct KubernetesBackend {
    pods: Api<Pod>,
    services: Api<Service>,
    namespace: String,
    settings: Kubernetes,
    /// What the pods' program is told before its subcommand: how to log.
    arguments: Vec<String>,
    secrets: Secrets,
    budgets: Budgets,
    /// Makes the pods' certificates, where connections are protected.
    authority: Option<Arc<Authority>>,
    lives: Shared,
    /// What stands in the way of the watch, while something does.
    watched: watch::Receiver<Watched>,
    events: mpsc::UnboundedSender<PodEvent>,
    /// The watch: ends with the backend.
    _following: JoinSet<()>,
}

/// The lives, for those who ask and for the watch.
#[derive(Clone)]
struct Shared(Arc<Mutex<Lives>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lives> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

/// How the watch is.
#[derive(Clone, Debug, Default)]
struct Watched {
    /// Whether all pods were listed once.
    listed: bool,
    /// Why it does not go on.
    trouble: Option<String>,
}

/// Why pods can't be kept in Kubernetes.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Nothing says where the API server is, or what it says makes no sense.
    #[error("can't tell how Kubernetes is reached: {0}")]
    Config(String),
    /// The client can't be made.
    #[error("can't make a client of Kubernetes: {0}")]
    Client(String),
}

/// How pods are spoken to, and what makes their certificates, if they have any.
pub type Protected = (Wires, Option<Arc<Authority>>);

impl KubernetesBackend {
    /// A backend as the kubeconfig says (`KUBECONFIG`, or that in the home directory), else as the service
    /// account of the pod that this process runs in; and what becomes of its pods.
    ///
    /// # Errors
    /// When neither is there.
    pub async fn connect(
        settings: Kubernetes,
        arguments: Vec<String>,
        pod_start: Duration,
        protected: Protected,
    ) -> Result<(Self, mpsc::UnboundedReceiver<PodEvent>), KubernetesError> {
        let mut config = Config::infer().await.map_err(|error| KubernetesError::Config(error.to_string()))?;
        config.connect_timeout = Some(PATIENCE);
        let client = Client::try_from(config).map_err(|error| KubernetesError::Client(error.to_string()))?;
        Ok(Self::over(client, settings, arguments, pod_start, protected))
    }

    /// A backend over a client.
    #[must_use]
    pub fn over(
        client: Client,
        settings: Kubernetes,
        arguments: Vec<String>,
        pod_start: Duration,
        (wires, authority): Protected,
    ) -> (Self, mpsc::UnboundedReceiver<PodEvent>) {
        let namespace = settings.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let (events, event_list) = mpsc::unbounded_channel();
        let (remove, to_remove) = mpsc::unbounded_channel();
        let (heard, hearing) = mpsc::channel(HEARD_MAX);
        let (watching, watched) = watch::channel(Watched::default());
        let lives = Lives::new(pod_start, wires, events.clone(), remove, heard);
        let lives = Shared(Arc::new(Mutex::new(lives)));
        let follower = Follower {
            pods: pods.clone(),
            namespace: namespace.clone(),
            selector: manifest::selector(&settings),
            lives: lives.clone(),
            watching,
        };
        let mut following = JoinSet::new();
        following.spawn(follower.run(hearing, to_remove));
        let services = Api::namespaced(client.clone(), &namespace);
        let secrets = Secrets::new(client.clone(), namespace.clone(), settings.clone());
        let budgets = Budgets::new(client, namespace.clone(), settings.clone());
        let backend = Self {
            pods,
            services,
            namespace,
            settings,
            arguments,
            secrets,
            budgets,
            authority,
            lives,
            watched,
            events,
            _following: following,
        };
        (backend, event_list)
    }

    fn call(&self, verb: &'static str) -> Call<'_> {
        Call { verb, resource: "pods", namespace: &self.namespace }
    }

    fn call_of_service(&self, verb: &'static str) -> Call<'_> {
        Call { verb, resource: "services", namespace: &self.namespace }
    }

    /// Has a pod's objects deleted that were not asked to end as firmly; one that is gone already is as
    /// good.
    async fn end(&self, pod: &str, how: Stop) -> Result<(), CallError> {
        let objects = self.lives.lock().to_stop(pod, how);
        for object in objects {
            // The watch may show it before the answer is here.
            let before = self.lives.lock().stopping(&object, Some(how));
            if let Err(error) = delete(&self.pods, self.call("delete"), &object, how).await {
                self.lives.lock().stopping(&object, before);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The pod's own fault: it is told as one that has ended.
    fn can_t_start(&self, spec: &PodSpec, status: String) -> Result<(), BackendError> {
        let ended = PodEvent::Ended { pod: spec.pod.clone(), incarnation: spec.incarnation, status };
        self.events.send(ended).map_err(|_| BackendError::Gone)
    }
}

fn unavailable(asked: &'static str) -> impl FnOnce(CallError) -> BackendError {
    move |source| BackendError::Unavailable { asked, source: Box::new(source) }
}

/// Whether there was such an object to be deleted.
async fn delete<K>(objects: &Api<K>, call: Call<'_>, object: &str, how: Stop) -> Result<bool, CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let parameters = match how {
        // The grace is the object's own.
        Stop::Gently => DeleteParams::default(),
        Stop::Now => DeleteParams::default().grace_period(0),
    };
    match call.answer(objects.delete(object, &parameters)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Backend for KubernetesBackend {
    async fn start(&self, daemon: PodDaemon, spec: &PodSpec) -> Result<(), BackendError> {
        self.end(&spec.pod, Stop::Now).await.map_err(unavailable("started"))?;
        let owner = match (&self.authority, &spec.identity) {
            (None, None) => None,
            (None, Some(_)) => self.secrets.owner(&spec.set).await.map_err(unavailable("started"))?,
            (Some(authority), _) => match self.secrets.certify(authority, spec).await {
                Ok(owner) => owner,
                Err(CertifyError::Kept(error)) => return Err(unavailable("started")(error)),
                Err(CertifyError::Made(error)) => return self.can_t_start(spec, error.to_string()),
            },
        };
        if owner.is_none() && spec.identity.is_some() {
            let name = secrets::name(&self.settings, &spec.set);
            return self.can_t_start(spec, format!("the Secret {name} with its identity is gone"));
        }
        if daemon == PodDaemon::Worker && spec.replication.faulty() > 0 {
            match self.budgets.keep(spec, owner.as_ref()).await {
                Ok(()) => {}
                // It computes all the same.
                Err(error) if error.is_lasting() => {
                    tracing::warn!(set = %spec.set, %error, "drains may take any number of the set's replicas");
                }
                Err(error) => return Err(unavailable("started")(error)),
            }
        }
        let spec = &PodSpec { tls: self.authority.as_ref().map(|_| manifest::files()), ..spec.clone() };
        // Nothing secret, but something that no other object has.
        let unique = match identity::seed() {
            Ok(seed) => hex::encode(&seed[..3]),
            Err(error) => return self.can_t_start(spec, error.to_string()),
        };
        let object = manifest::pod(&self.settings, &self.arguments, daemon, spec, &unique, owner.as_ref());
        let name = object.metadata.name.clone().expect("the manifest names it");
        let parameters =
            PostParams { field_manager: Some(manifest::FIELD_MANAGER.into()), ..PostParams::default() };
        match self.call("create").answer(self.pods.create(&parameters, &object)).await {
            Ok(_) => {
                self.lives.lock().made(&name, &spec.pod, spec.incarnation, Instant::now());
                Ok(())
            }
            Err(error) if error.is_final() => self.can_t_start(spec, error.to_string()),
            Err(error) => Err(unavailable("started")(error)),
        }
    }

    async fn stop(&self, pod: &str, how: Stop) -> Result<(), BackendError> {
        self.end(pod, how).await.map_err(unavailable("ended"))
    }

    async fn tell(&self, pod: &str, told: Told) -> Result<(), BackendError> {
        self.lives.lock().tell(pod, &told);
        Ok(())
    }

    /// What the watch has shown, once it has shown all: the API server is not asked each time, and what it
    /// can't show for a while is not gone.
    async fn list(&self) -> Result<Vec<RunningPod>, BackendError> {
        let mut watched = self.watched.clone();
        let listed = tokio::time::timeout(PATIENCE, watched.wait_for(|watched| watched.listed)).await;
        match listed {
            Ok(Ok(_)) => Ok(self.lives.lock().running()),
            Ok(Err(_)) => Err(BackendError::Gone),
            Err(_) => {
                let trouble = self.watched.borrow().trouble.clone();
                let silent = || CallError::Silent(PATIENCE).to_string();
                let source = trouble.unwrap_or_else(silent).into();
                Err(BackendError::Unavailable { asked: "listed", source })
            }
        }
    }

    async fn offer(&self, name: &str, function: &str) -> Result<(), BackendError> {
        let service = Patch::Apply(manifest::service(&self.settings, name, function));
        let name = manifest::name(&self.settings, name);
        // Ours alone: what others changed of it is put right.
        let parameters = PatchParams::apply(manifest::FIELD_MANAGER).force();
        let applied = self.services.patch(&name, &parameters, &service);
        match self.call_of_service("patch").answer(applied).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_final() => Err(BackendError::Refused { reason: error.to_string() }),
            Err(error) => Err(unavailable("offered")(error)),
        }
    }

    async fn withdraw(&self, name: &str) -> Result<(), BackendError> {
        let name = manifest::name(&self.settings, name);
        let deleted = delete(&self.services, self.call_of_service("delete"), &name, Stop::Gently).await;
        deleted.map(drop).map_err(unavailable("withdrawn"))
    }

    async fn forget(&self, set: &str) -> Result<(), BackendError> {
        match self.budgets.remove(set).await {
            Err(error) if !error.is_lasting() => Err(unavailable("forgotten")(error)),
            _ => Ok(()),
        }
    }

    /// A journal lies in an `emptyDir`.
    fn keeps_data(&self) -> bool {
        false
    }

    async fn keys(
        &self,
        identities: &Identities,
        set: &str,
        replicas: u32,
    ) -> Result<SetKeys, IdentityError> {
        self.secrets.obtain(identities, set, replicas).await
    }

    async fn order(
        &self,
        identities: &Identities,
        set: &str,
        members: &Configuration,
        index: u32,
    ) -> Result<Reconfigure, IdentityError> {
        self.secrets.order(identities, set, members, index).await
    }
}

/// Follows what becomes of the objects and of the pods.
struct Follower {
    pods: Api<Pod>,
    namespace: String,
    selector: String,
    lives: Shared,
    watching: watch::Sender<Watched>,
}

impl Follower {
    async fn run(
        self,
        mut hearing: mpsc::Receiver<(String, Heard)>,
        mut to_remove: mpsc::UnboundedReceiver<String>,
    ) {
        let config = watcher::Config::default().labels(&self.selector).timeout(WATCH_SECONDS);
        let mut changes = std::pin::pin!(watcher(self.pods.clone(), config));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut removing = JoinSet::new();
        let mut listed = BTreeSet::new();
        let (mut pause, mut again) = (PAUSE.0, tokio::time::Instant::now());
        loop {
            // The stream goes on from where it failed when it is polled next.
            let change = async {
                tokio::time::sleep_until(again).await;
                changes.next().await
            };
            tokio::select! {
                Some(change) = change => match change {
                    Ok(change) => {
                        self.on_change(change, &mut listed);
                        pause = PAUSE.0;
                    }
                    Err(error) => {
                        self.in_trouble(&error);
                        again = tokio::time::Instant::now() + pause;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                },
                Some((object, heard)) = hearing.recv() => {
                    self.lives.lock().hear(&object, heard, Instant::now());
                }
                Some(object) = to_remove.recv() => {
                    removing.spawn(remove(self.pods.clone(), self.namespace.clone(), object));
                }
                Some(removed) = removing.join_next() => {
                    if let Ok(Some(object)) = removed {
                        self.lives.lock().missing(&object);
                    }
                }
                _ = tick.tick() => self.lives.lock().tick(Instant::now()),
            }
        }
    }

    fn on_change(&self, change: watcher::Event<Pod>, listed: &mut BTreeSet<String>) {
        let is_all = matches!(change, watcher::Event::InitDone);
        let mut lives = self.lives.lock();
        match change {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.extend(object.metadata.name.clone());
                lives.show(&object, Instant::now());
            }
            watcher::Event::InitDone => lives.listed(listed),
            watcher::Event::Apply(object) => lives.show(&object, Instant::now()),
            watcher::Event::Delete(object) => {
                if let Some(name) = &object.metadata.name {
                    lives.gone(name);
                }
            }
        }
        drop(lives);
        self.watching.send_if_modified(|watched| {
            let is_news = is_all && !watched.listed || watched.trouble.is_some();
            watched.listed |= is_all;
            if watched.trouble.take().is_some() {
                tracing::info!("pods are seen again");
            }
            is_news
        });
    }

    /// The watch does not go on: said once.
    fn in_trouble(&self, error: &watcher::Error) {
        let call = |verb| Call { verb, resource: "pods", namespace: &self.namespace };
        let trouble = match error {
            watcher::Error::InitialListFailed(error) => call("list").error(error).to_string(),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                call("watch").error(error).to_string()
            }
            // What was seen last is too old to go on from: all are listed again.
            watcher::Error::WatchError(status) if status.code == 410 => return,
            other => other.to_string(),
        };
        self.watching.send_modify(|watched| {
            if watched.trouble.is_none() {
                tracing::warn!(error = %trouble, "what becomes of pods can't be seen; it is tried again");
            }
            watched.trouble = Some(trouble);
        });
    }
}

/// Removes what a pod that has ended left behind; gives back the object when there is none.
async fn remove(pods: Api<Pod>, namespace: String, object: String) -> Option<String> {
    let call = Call { verb: "delete", resource: "pods", namespace: &namespace };
    match delete(&pods, call, &object, Stop::Now).await {
        Ok(true) => None,
        Ok(false) => Some(object),
        Err(error) => {
            tracing::debug!(object, %error, "it is left behind for now");
            None
        }
    }
}
