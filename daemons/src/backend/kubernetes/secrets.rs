//! Identities in Secrets: one for each set, with `worker.der`, `replica-0.der`, … and beside each its
//! public half as `….pub`, as in the files of [`Identities`]; certificates for connections, `worker.crt`
//! and `worker.key` and so on, with their authority's, `ca.crt`; and one with the cluster service's own
//! identity, `operator.der`.
//!
//! A Secret outlives the service that made it, whose own files may go with its pod, and the set: a set
//! that comes back has the keys it had. All pods of a set go with its Secret.

use super::{
    call::{Call, CallError},
    manifest::{FIELD_MANAGER, SET, labels},
};
use crate::{
    config::Kubernetes,
    identity::{self, Identities, IdentityError, Member, SetKeys},
    pod::{self, PodSpec},
    tls::{self, Authority, Name, Role, TlsError},
};
use k8s_openapi::{
    ByteString, Resource as _, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    core::{
        Request, Resource as _,
        params::{GetParams, PostParams},
    },
};
use quorate_pbft::{
    Configuration,
    crypto::{Identity, PublicKey},
    membership::Reconfigure,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// Under which key the authority's certificate lies.
const CA: &str = tls::NAMES[0];

/// Tries to write a Secret that others write, too.
const TRIES: usize = 8;

/// The name of a set's Secret.
pub(super) fn name(settings: &Kubernetes, set: &str) -> String {
    format!("{}{set}-identities", settings.prefix)
}

/// Under which key the private half of whoever has this name lies.
pub(super) fn private(name: &str) -> String {
    format!("{name}.der")
}

/// Under which keys the authority's certificate, a member's and its key lie.
pub(super) fn certificate(index: Option<u32>) -> [String; 3] {
    let member = identity::member(index);
    [CA.into(), format!("{member}.crt"), format!("{member}.key")]
}

fn public(name: &str) -> String {
    format!("{name}.pub")
}

/// No set has the name of what is no function.
const OPERATOR: &str = "operator";

/// The Secrets of one platform.
pub(super) struct Secrets {
    client: Client,
    namespace: String,
    settings: Kubernetes,
}

/// A Secret as far as it matters here. Neither it nor the texts that it comes in are ever shown, which
/// Kubernetes' own type and client would do.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    api_version: String,
    kind: String,
    metadata: Metadata,
    #[serde(rename = "type", default)]
    type_: String,
    #[serde(default)]
    data: BTreeMap<String, ByteString>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Why a pod has no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertifyError {
    /// It can't be kept.
    #[error(transparent)]
    Kept(#[from] CallError),
    /// It can't be made.
    #[error(transparent)]
    Made(#[from] TlsError),
}

impl Kept {
    fn owner(&self) -> Option<OwnerReference> {
        Some(owner(self.metadata.name.clone(), self.metadata.uid.clone()?))
    }
}

/// What the pods of a set go with.
fn owner(name: String, uid: String) -> OwnerReference {
    OwnerReference {
        api_version: Secret::API_VERSION.into(),
        kind: Secret::KIND.into(),
        name,
        uid,
        ..OwnerReference::default()
    }
}

/// After [`TRIES`] in vain.
fn contended() -> CallError {
    CallError::Unreachable("others write its Secret again and again".into())
}

/// Where a Secret's item is, for a person.
fn path(kept: &Kept, item: &str) -> PathBuf {
    format!("secret/{}/{item}", kept.metadata.name).into()
}

/// The public half of the key with this name.
fn public_of(kept: &Kept, name: &str) -> Result<Member, IdentityError> {
    let der = kept.data.get(&public(name)).map(|der| der.0.clone()).unwrap_or_default();
    let read = PublicKey::from_der(der.into());
    let public = read.map_err(|source| IdentityError::Public { path: path(kept, &public(name)), source })?;
    Ok(Member { path: path(kept, &private(name)), public })
}

impl Drop for Kept {
    fn drop(&mut self) {
        for value in self.data.values_mut() {
            value.0.zeroize();
        }
    }
}

impl Secrets {
    pub(super) fn new(client: Client, namespace: String, settings: Kubernetes) -> Self {
        Self { client, namespace, settings }
    }

    /// The keys of a set, of which those that are missing are made.
    pub(super) async fn obtain(
        &self,
        identities: &Identities,
        set: &str,
        replicas: u32,
    ) -> Result<SetKeys, IdentityError> {
        let operator = public_of(&*self.have(identities, OPERATOR, &[OPERATOR.into()]).await?, OPERATOR)?;
        let names: Vec<_> = identity::members(replicas).map(identity::member).collect();
        let kept = self.have(identities, set, &names).await?;
        let mut members = names.iter().map(|name| public_of(&kept, name));
        let worker = members.next().expect("a set has a worker")?;
        let replicas = members.collect::<Result<_, _>>()?;
        Ok(SetKeys { set: set.into(), worker, replicas, operator: operator.public })
    }

    /// As [`Identities::order`].
    pub(super) async fn order(
        &self,
        identities: &Identities,
        set: &str,
        members: &Configuration,
        index: u32,
    ) -> Result<Reconfigure, IdentityError> {
        let name = identity::successor(index, members.number + 1);
        let fresh = public_of(&*self.have(identities, set, std::slice::from_ref(&name)).await?, &name)?;
        let kept = self.have(identities, OPERATOR, &[OPERATOR.into()]).await?;
        let item = private(OPERATOR);
        let operator = Identity::from_pkcs8(&kept.data[&item].0)
            .map_err(|source| IdentityError::Private { path: path(&kept, &item), source })?;
        identity::order(set, members, index, fresh.public, &operator)
    }

    /// The Secret of a set with the keys of these names, of which those that are missing are made.
    async fn have(
        &self,
        identities: &Identities,
        set: &str,
        names: &[String],
    ) -> Result<Box<Kept>, IdentityError> {
        let keeping =
            |source: CallError| IdentityError::Keeping { set: set.into(), source: Box::new(source) };
        for _ in 0..TRIES {
            let found = self.read(set).await.map_err(keeping)?;
            let is_there = found.is_some();
            let mut kept = found.unwrap_or_else(|| self.empty(set));
            let missing: Vec<_> =
                names.iter().filter(|name| !kept.data.contains_key(&private(name))).collect();
            if missing.is_empty() {
                return Ok(kept.into());
            }
            let count = missing.len();
            let made = identities.beside(move |identities| identities.fresh(count)).await?;
            for (name, identity) in missing.into_iter().zip(made) {
                kept.data.insert(private(name), ByteString(identity.private.to_vec()));
                kept.data.insert(public(name), ByteString(identity.public.to_der().to_vec()));
            }
            if let Some(kept) = self.write(&kept, is_there).await.map_err(keeping)? {
                return Ok(kept.into());
            }
        }
        Err(keeping(contended()))
    }

    /// Has a pod's certificate in its set's Secret, made unless one of this authority is there; those of the
    /// whole set are made together. Gives back what the set's pods go with: none when the Secret is gone that
    /// has its identity, too.
    pub(super) async fn certify(
        &self,
        authority: &Authority,
        spec: &PodSpec,
    ) -> Result<Option<OwnerReference>, CertifyError> {
        let set = &spec.set;
        for _ in 0..TRIES {
            let found = self.read(set).await?;
            if found.is_none() && spec.identity.is_some() {
                return Ok(None);
            }
            let is_there = found.is_some();
            let mut kept = found.unwrap_or_else(|| self.empty(set));
            let is_of_authority = kept.data.get(CA).is_some_and(|ca| ca.0 == authority.pem().as_bytes());
            let has = |kept: &Kept, index| certificate(index).iter().all(|key| kept.data.contains_key(key));
            if is_of_authority && has(&kept, spec.index) {
                return Ok(kept.owner());
            }
            kept.data.insert(CA.into(), ByteString(authority.pem().into()));
            for index in identity::members(spec.replication.replicas()) {
                if !is_of_authority || !has(&kept, index) {
                    let role = index.map_or(Role::Worker, |_| Role::Replica);
                    let issued = authority.issue(role, Some(&Name::of_pod(&pod::name_of(set, index))))?;
                    let [_, cert, key] = certificate(index);
                    kept.data.insert(cert, ByteString(issued.cert.clone().into()));
                    kept.data.insert(key, ByteString(issued.key.as_bytes().into()));
                }
            }
            if let Some(kept) = self.write(&kept, is_there).await? {
                return Ok(kept.owner());
            }
        }
        Err(contended().into())
    }

    /// What a set's pods go with: asked for each time, because a pod of one that is gone would go at once.
    pub(super) async fn owner(&self, set: &str) -> Result<Option<OwnerReference>, CallError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = name(&self.settings, set);
        let found = self.call("get").answer(secrets.get_metadata_opt(&name)).await?;
        let uid = found.and_then(|found| found.metadata.uid);
        Ok(uid.map(|uid| owner(name, uid)))
    }

    fn empty(&self, set: &str) -> Kept {
        Kept {
            api_version: Secret::API_VERSION.into(),
            kind: Secret::KIND.into(),
            metadata: Metadata {
                name: name(&self.settings, set),
                uid: None,
                resource_version: None,
                labels: labels(&self.settings, [(SET, set)]),
            },
            type_: "Opaque".into(),
            data: BTreeMap::new(),
        }
    }

    async fn read(&self, set: &str) -> Result<Option<Kept>, CallError> {
        let call = self.call("get");
        let request = self.requests().get(&name(&self.settings, set), &GetParams::default());
        match self.send(call, request).await {
            Ok(kept) => Ok(Some(kept)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As it is kept then; `None` when others were quicker, who are right.
    async fn write(&self, kept: &Kept, is_there: bool) -> Result<Option<Kept>, CallError> {
        let text = serde_json::to_vec(kept).expect("a Secret is plain data");
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let written = if is_there {
            let request = self.requests().replace(&kept.metadata.name, &parameters, text);
            self.send(self.call("update"), request).await
        } else {
            self.send(self.call("create"), self.requests().create(&parameters, text)).await
        };
        match written {
            Ok(kept) => Ok(Some(kept)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn requests(&self) -> Request {
        Request::new(Secret::url_path(&(), Some(&self.namespace)))
    }

    fn call(&self, verb: &'static str) -> Call<'_> {
        Call { verb, resource: "secrets", namespace: &self.namespace }
    }

    async fn send(
        &self,
        call: Call<'_>,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Kept, CallError> {
        let request = request.map_err(|error| CallError::Unreachable(error.to_string()))?;
        let text = call.answer(self.client.request_text(request)).await.map(Zeroizing::new)?;
        serde_json::from_str(&text).map_err(|error| call.error(&kube::Error::SerdeError(error)))
    }
}
