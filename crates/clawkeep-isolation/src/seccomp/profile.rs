//! Which program is put around a process: what is around it besides decides what a system call may do.

use clawkeep_plan::{NetlinkRule, Tier};

use crate::spec::IdMap;

/// The profiles, one program each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// In namespaces of its own.
    Namespaces(NetlinkRule),
    /// On the host's own network, and beside its processes.
    Landlock {
        /// The agent has ids that nobody else has. Otherwise what the host's user owns is the agent's too, and what
        /// Landlock does not hold (landlock(7), "Current limitations") is held here.
        own_ids: bool,
    },
}

impl From<NetlinkRule> for Profile {
    fn from(netlink: NetlinkRule) -> Self {
        Self::Namespaces(netlink)
    }
}

impl Profile {
    /// Every profile, each with its own place in a list of programs.
    pub(super) const ALL: [Self; 4] = [
        Self::Namespaces(NetlinkRule::RouteOnly),
        Self::Namespaces(NetlinkRule::Refused),
        Self::Landlock { own_ids: true },
        Self::Landlock { own_ids: false },
    ];

    /// That of a sandbox of this tier with these ids. The lower tier has no netlink in any case.
    pub(crate) fn of(tier: Tier, ids: IdMap, netlink: NetlinkRule) -> Self {
        match tier {
            Tier::Namespaces => Self::Namespaces(netlink),
            Tier::Landlock => Self::Landlock { own_ids: matches!(ids, IdMap::Range { .. }) },
        }
    }

    /// Its place in such a list.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Namespaces(NetlinkRule::RouteOnly) => 0,
            Self::Namespaces(NetlinkRule::Refused) => 1,
            Self::Landlock { own_ids: true } => 2,
            Self::Landlock { own_ids: false } => 3,
        }
    }
}
