//! Who may do what in a cluster with an authorizer (`Acls.java`).

use crate::lab::{Lab, LabError};

use super::call;

/// Takes all ACLs away. Returns when one broker goes by it.
pub fn clear_acls(lab: &Lab, bootstrap: &str) -> Result<(), LabError> {
    let args = ["clear", "--bootstrap", bootstrap].map(str::to_owned);
    call(lab, "Acls", &args)
}

/// An ACL is `KIND:NAME:OPERATION` with the kinds `topic`, `group`, `transactional_id` and `cluster` (whose name is `kafka-cluster`),
/// such as `topic:orders:WRITE`.
///
/// Takes from a user what of `remove` it is allowed, gives it `add`; other ACLs stay. Returns when one
/// broker goes by them; where there are more, others may follow some milliseconds later.
pub fn change_acls(
    lab: &Lab,
    bootstrap: &str,
    user: &str,
    add: &[&str],
    remove: &[&str],
) -> Result<(), LabError> {
    let mut args = vec!["change", "--bootstrap", bootstrap, "--user", user];
    args.extend(add.iter().flat_map(|acl| ["--add", acl]));
    args.extend(remove.iter().flat_map(|acl| ["--remove", acl]));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    call(lab, "Acls", &args)
}
