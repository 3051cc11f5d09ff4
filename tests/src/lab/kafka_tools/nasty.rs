//! Topics with all that a copy may get wrong (`Nasty.java`), and copies that did get one thing wrong each (`Seeded.java`).

use crate::lab::{Lab, LabError};

use super::call;

/// Makes the topics `PREFIX.*`, anew, and returns their names. One of them ends in an open transaction.
pub fn nasty(lab: &Lab, bootstrap: &str, prefix: &str) -> Result<Vec<String>, LabError> {
    call(lab, "Nasty", &args(bootstrap, prefix))
}

/// Makes the topic `PREFIX.original` and its wrong copies, anew, and returns all names.
pub fn seeded(lab: &Lab, bootstrap: &str, prefix: &str) -> Result<Vec<String>, LabError> {
    call(lab, "Seeded", &args(bootstrap, prefix))
}

fn args(bootstrap: &str, prefix: &str) -> [String; 4] {
    ["--bootstrap", bootstrap, "--prefix", prefix].map(str::to_owned)
}
