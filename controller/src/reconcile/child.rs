//! Jobs and pods as caches hold them: what is looked at, and what they are found by.
//!
//! # Guarantees
//! - A cached child takes what its texts take and little more: a Job or Pod of the API is 2 KB before its first text, and each
//!   of its maps half a KB.

use std::borrow::Cow;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Lookup;
use kube::{Resource, ResourceExt};

use super::view::{JobView, PodView};
use crate::job::UID_LABEL;

/// The Job controller's label on pods with the UID of their Job.
pub(crate) const JOB_UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

/// What is kept of a child that a label tells to be somebody's.
pub(crate) trait View: for<'a> From<&'a Self::Child> + Clone + Debug + Send + Sync {
    /// What it is a view of.
    type Child: Resource<DynamicType = (), Scope = NamespaceResourceScope>;
    /// The label with the UID of whose child it is.
    const PARENT: &'static str;

    /// The name of the child.
    fn name(&self) -> &str;
}

impl View for JobView {
    type Child = Job;
    const PARENT: &'static str = UID_LABEL;

    fn name(&self) -> &str {
        &self.name
    }
}

impl View for PodView {
    type Child = Pod;
    const PARENT: &'static str = JOB_UID_LABEL;

    fn name(&self) -> &str {
        &self.name
    }
}

/// A Job of an object, or a pod of a Job.
#[derive(Clone, Debug)]
pub(crate) struct Child<V> {
    namespace: Option<String>,
    parent: Option<String>,
    /// What is looked at.
    pub(crate) view: V,
}

impl<V: View> Child<V> {
    /// What is kept of `child`.
    pub(crate) fn of(child: &V::Child) -> Self {
        Self {
            namespace: child.meta().namespace.clone(),
            parent: child.labels().get(V::PARENT).cloned(),
            view: V::from(child),
        }
    }

    /// Whether its label says that it is a child of what has this UID.
    pub(crate) fn is_of(&self, uid: &str) -> bool {
        self.parent.as_deref() == Some(uid)
    }
}

impl<V: View> Lookup for Child<V> {
    type DynamicType = ();

    fn kind((): &()) -> Cow<'_, str> {
        <V::Child as Resource>::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        <V::Child as Resource>::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        <V::Child as Resource>::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        <V::Child as Resource>::plural(&())
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(self.view.name().into())
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        self.namespace.as_deref().map(Cow::from)
    }

    // The two are no part of the place in the cache, and a reference would hold them once more.

    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::{ObjectRef, store};
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn job(name: &str, label: Option<&str>) -> Child<JobView> {
        let mut job = Job::default();
        job.metadata.name = Some(name.into());
        job.metadata.namespace = Some("shop".into());
        job.metadata.uid = Some(format!("uid-{name}"));
        job.metadata.labels = label.map(|uid| [(UID_LABEL.into(), uid.into())].into());
        Child::of(&job)
    }

    #[test]
    fn a_cached_job_is_found_by_its_place_and_by_the_label_of_its_object() {
        let (jobs, mut writer) = store();
        for event in [
            Event::Apply(job("a", Some("uid-1"))),
            Event::Apply(job("b", Some("uid-2"))),
            Event::Apply(job("c", None)),
        ] {
            writer.apply_watcher_event(&event);
        }
        let of = |uid| -> Vec<String> {
            let found = jobs.state_filter(|job: &Child<JobView>| job.is_of(uid));
            found.iter().map(|job| job.view.name.clone()).collect()
        };
        assert_eq!(
            (of("uid-1"), of("uid-c"), of("")),
            (vec!["a".into()], vec![], vec![])
        );
        let place = ObjectRef::new("a").within("shop");
        assert_eq!(jobs.get(&place).unwrap().view.uid, "uid-a");
        writer.apply_watcher_event(&Event::Delete(job("a", Some("uid-1"))));
        assert!(jobs.get(&place).is_none());
    }

    #[test]
    fn a_cached_pod_is_a_child_of_its_job() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {
            "name": "p", "namespace": "shop", "labels": {JOB_UID_LABEL: "job-1", UID_LABEL: "uid-1"}
        }}))
        .unwrap();
        let pod = Child::<PodView>::of(&pod);
        assert!(pod.is_of("job-1") && !pod.is_of("uid-1"));
    }

    #[test]
    fn a_cached_child_is_a_fraction_of_what_the_api_tells() {
        let most = size_of::<Job>().min(size_of::<Pod>()) / 4;
        assert!(size_of::<Child<JobView>>() < most);
        assert!(size_of::<Child<PodView>>() < most);
    }
}
