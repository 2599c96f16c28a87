//! What a configuration came to: each setting with its source, as `config show` tells it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One setting that is in effect.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, utoipa::ToSchema)]
pub struct Setting {
    /// `section.key`.
    pub name: String,
    /// Its value; of a secret, only where it came from.
    pub value: String,
    /// What said so.
    pub source: Source,
    /// What the file says meanwhile, where only a restart can change it.
    pub after_restart: Option<String>,
}

/// What a setting came from; the first of these that says something counts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, utoipa::ToSchema)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Source {
    /// The command line.
    Flag {
        /// The flag.
        name: String,
    },
    /// The environment.
    Env {
        /// The variable.
        name: String,
    },
    /// The configuration file.
    File {
        /// Its path.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// The catalogue, by the provider's `preset`.
    Preset {
        /// Which.
        id: String,
    },
    /// Nobody.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { name } => write!(f, "flag {name}"),
            Self::Env { name } => write!(f, "env {name}"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Preset { id } => write!(f, "preset {id}"),
            Self::Default => f.write_str("default"),
        }
    }
}
