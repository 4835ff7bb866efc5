//! How many replicas of a set may be taken away on purpose at a time: by a drain, an upgrade, a
//! consolidation. Who takes them asks Kubernetes for an eviction, which refuses one more than that.

use super::{
    call::{Call, CallError},
    manifest,
};
use crate::{config::Kubernetes, pod::PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};

/// As Kubernetes has had them since 1.21, and until 1.24.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

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
        let call = self.call("patch");
        let name = manifest::budget_name(&self.settings, &spec.set);
        // Ours alone: what others changed of it is put right.
        let parameters = PatchParams::apply(manifest::FIELD_MANAGER).force();
        let mut refused = None;
        for version in VERSIONS {
            let budget = manifest::budget(&self.settings, version, spec, owner);
            match call.answer(self.api(version).patch(&name, &parameters, &Patch::Apply(budget))).await {
                Ok(_) => return Ok(()),
                // The first time is this version's, the second everybody's.
                Err(error) if error.is_not_found() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.expect("there is a version"))
    }

    /// A set is gone; one without a budget is no error.
    pub(super) async fn remove(&self, set: &str) -> Result<(), CallError> {
        let name = manifest::budget_name(&self.settings, set);
        for version in VERSIONS {
            match self.call("delete").answer(self.api(version).delete(&name, &DeleteParams::default())).await
            {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
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
