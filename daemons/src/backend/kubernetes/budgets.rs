//! How many replicas of a set may be taken away on purpose at a time: by a drain, an upgrade, a
//! consolidation. Who takes them asks Kubernetes for an eviction, which refuses one more than that.

use super::{
    call::{Call, CallError},
    delete, manifest,
};
use crate::{backend::Stop, config::Kubernetes, pod::PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};

/// As Kubernetes has had them since 1.21.
const CURRENT: &str = "v1";
/// And until 1.24.
const FORMER: &str = "v1beta1";

/// The budgets of the sets of a platform.
pub(super) struct Budgets {
    client: Client,
    namespace: String,
    settings: Kubernetes,
}

impl Budgets {
    pub(super) fn new(client: Client, namespace: String, settings: Kubernetes) -> Self {
        Self { client, namespace, settings }
    }

    /// Has the budget of the set of a pod as it should be.
    pub(super) async fn keep(&self, spec: &PodSpec, owner: Option<&OwnerReference>) -> Result<(), CallError> {
        match self.apply(CURRENT, spec, owner).await {
            Err(error) if error.is_not_found() => self.apply(FORMER, spec, owner).await,
            applied => applied,
        }
    }

    async fn apply(
        &self,
        version: &str,
        spec: &PodSpec,
        owner: Option<&OwnerReference>,
    ) -> Result<(), CallError> {
        let name = manifest::name(&self.settings, &spec.set);
        let budget = Patch::Apply(manifest::budget(&self.settings, version, spec, owner));
        // Ours alone: what others changed of it is put right.
        let parameters = PatchParams::apply(manifest::FIELD_MANAGER).force();
        let api = self.api(version);
        self.call("patch").answer(api.patch(&name, &parameters, &budget)).await.map(drop)
    }

    /// A set is gone; one without a budget is no error.
    pub(super) async fn remove(&self, set: &str) -> Result<(), CallError> {
        let name = manifest::name(&self.settings, set);
        for version in [CURRENT, FORMER] {
            if delete(&self.api(version), self.call("delete"), &name, Stop::Gently).await? {
                break;
            }
        }
        Ok(())
    }

    fn api(&self, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("policy", version, "PodDisruptionBudget");
        let resource = ApiResource::from_gvk_with_plural(&kind, "poddisruptionbudgets");
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    fn call(&self, verb: &'static str) -> Call<'_> {
        Call { verb, resource: "poddisruptionbudgets", namespace: &self.namespace }
    }
}
