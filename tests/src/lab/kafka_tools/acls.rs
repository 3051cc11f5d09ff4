//! Who may do what in a cluster with an authorizer (`Acls.java`).

use crate::lab::{Lab, LabError};

use super::call;

/// Lines of a broker's properties that make it refuse what an ACL denies, and what no ACL of a resource with ACLs allows.
pub const AUTHORIZER: &str = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                              allow.everyone.if.no.acl.found=true";

/// Gives everybody these permissions, and no others, on resources that one of them names; all on others. Each is `KIND:NAME:OPERATION`
/// with the kinds `topic`, `group`, `transactional_id` and `cluster` (whose name is `kafka-cluster`), such as `topic:orders:WRITE`. What is denied is denied
/// whatever allows it. Returns when the broker goes by them.
pub fn set_acls(lab: &Lab, bootstrap: &str, allow: &[&str], deny: &[&str]) -> Result<(), LabError> {
    let mut args = vec!["set", "--bootstrap", bootstrap];
    args.extend(allow.iter().flat_map(|acl| ["--allow", acl]));
    args.extend(deny.iter().flat_map(|acl| ["--deny", acl]));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    call(lab, "Acls", &args)
}

/// Takes from a user what of `remove` it is allowed, gives it `add`, in the words of [`set_acls`]; other ACLs stay. Returns when one
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
