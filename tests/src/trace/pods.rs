//! Pods as processes of this machine, each of which can be held back: it is ordered, and not made before the test
//! says so.

use super::{Tracer, What};
use async_trait::async_trait;
use quorate::{
    backend::{
        Backend, BackendError, PodDaemon, PodEvent, RunningPod, Stop,
        process::{Nursery, Order, ProcessBackend, Program, Report},
    },
    pod::{PodSpec, Said, Told},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// The pods, which outlive the cluster service that has ordered them.
pub struct Pods {
    folder: PathBuf,
    trace: PathBuf,
    held: Arc<watch::Sender<BTreeSet<String>>>,
    orders: mpsc::UnboundedSender<Order>,
    /// To whichever cluster service there is.
    reports: Arc<watch::Sender<Option<mpsc::UnboundedSender<Report>>>>,
    keeping: JoinHandle<()>,
}

impl Pods {
    /// Pods that run this program.
    #[must_use]
    pub fn keep(program: Program, folder: &Path, trace: &Path) -> Self {
        let (orders, mut given) = mpsc::unbounded_channel();
        let reports: Arc<watch::Sender<Option<mpsc::UnboundedSender<Report>>>> = Arc::default();
        let told = Arc::clone(&reports);
        let mut nursery = Nursery::new(program);
        let keeping = tokio::spawn(async move {
            // While there is no cluster service, nobody is told.
            let report = |report| drop(told.borrow().as_ref().map(|told| told.send(report)));
            loop {
                tokio::select! {
                    order = given.recv() => {
                        let Some(order) = order else { break };
                        nursery.carry_out(order).into_iter().for_each(report);
                    }
                    event = nursery.next_event() => report(Report::Event(event)),
                }
            }
            nursery.end_all().await;
        });
        Self { folder: folder.into(), trace: trace.into(), held: Arc::default(), orders, reports, keeping }
    }

    /// Holds the next life of a pod back.
    pub fn hold(&self, pod: &str) {
        self.held.send_if_modified(|held| held.insert(pod.into()));
    }

    /// Has it made.
    pub fn release(&self, pod: &str) {
        self.held.send_if_modified(|held| held.remove(pod));
    }

    /// For the next cluster service.
    #[must_use]
    pub fn attach(&self) -> (Arc<dyn Backend>, mpsc::UnboundedReceiver<PodEvent>) {
        let (reports, told) = mpsc::unbounded_channel();
        self.reports.send_replace(Some(reports));
        let (backend, mut became) = ProcessBackend::new(&self.folder, None, self.orders.clone(), told);
        let (tell, events) = mpsc::unbounded_channel();
        let of_pods = Tracer::new("pods", &self.trace);
        tokio::spawn(async move {
            while let Some(event) = became.recv().await {
                let (pod, what) = told_of(&event);
                of_pods.tell_of(&pod, what);
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        let tracer = Tracer::new("cluster", &self.trace);
        (Arc::new(TracedBackend { backend, tracer, held: Arc::clone(&self.held) }), events)
    }

    /// Ends all of them.
    pub async fn end(self) {
        drop(self.orders);
        let _ = self.keeping.await;
    }
}

fn told_of(event: &PodEvent) -> (String, What) {
    let (pod, incarnation, word) = match event {
        PodEvent::Started { pod, incarnation, .. } => (pod, incarnation, "started"),
        PodEvent::Said { pod, incarnation, said: Said::Listening { .. } } => (pod, incarnation, "listening"),
        PodEvent::Said { pod, incarnation, said: Said::Ready } => (pod, incarnation, "ready"),
        PodEvent::Said { pod, incarnation, said: Said::Succeeded { .. } } => (pod, incarnation, "succeeded"),
        PodEvent::Ended { pod, incarnation, .. } => (pod, incarnation, "ended"),
    };
    (pod.clone(), What::Became { incarnation: *incarnation, word: word.into() })
}

struct TracedBackend {
    backend: ProcessBackend,
    tracer: Tracer,
    held: Arc<watch::Sender<BTreeSet<String>>>,
}

#[async_trait]
impl Backend for TracedBackend {
    async fn start(&self, daemon: PodDaemon, spec: &PodSpec) -> Result<(), BackendError> {
        let keeps = [spec.identity.clone(), spec.resumes.then(|| spec.data.clone())];
        let (pod, incarnation) = (spec.pod.clone(), spec.incarnation);
        self.tracer.tell(What::Orders { pod, incarnation, keeps });
        let mut held = self.held.subscribe();
        // Its sender is here.
        let _ = held.wait_for(|held| !held.contains(&spec.pod)).await;
        self.backend.start(daemon, spec).await
    }

    async fn stop(&self, pod: &str, how: Stop) -> Result<(), BackendError> {
        self.backend.stop(pod, how).await
    }

    async fn tell(&self, pod: &str, told: Told) -> Result<(), BackendError> {
        self.backend.tell(pod, told).await
    }

    async fn list(&self) -> Result<Vec<RunningPod>, BackendError> {
        self.backend.list().await
    }

    async fn forget(&self, set: &str) -> Result<(), BackendError> {
        self.backend.forget(set).await
    }
}
