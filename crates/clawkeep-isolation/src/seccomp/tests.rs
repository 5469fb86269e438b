use proptest::prelude::*;

use clawkeep_plan::NetlinkRule;

use super::arguments::{
    BY_ARGUMENTS, IOCTLS, LAYER_OPTIONS, MAKES, NAMESPACE_FLAGS, OPENS, PRCTLS, PROGRAM_OPTIONS, SETS_MODE,
    TERMINAL_REFUSED,
};
use super::beside::{ABOUT_A_KIND, ABOUT_A_PID, SENDS, TCP_REFUSED};
use super::machine::{Made, run};
use super::table::UNKNOWN;
use super::*;

/// The architecture that the tests run on (the kernel's uapi/linux/audit.h).
#[cfg(target_arch = "x86_64")]
const HERE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const HERE: u32 = 0xc000_00b7;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Allowed,
    Refused,
    Pretended,
    Unknown,
    Killed,
}

fn fate(program: &[sock_filter], made: Made) -> Fate {
    match run(program, made) {
        libc::SECCOMP_RET_ALLOW => Fate::Allowed,
        libc::SECCOMP_RET_KILL_PROCESS => Fate::Killed,
        libc::SECCOMP_RET_USER_NOTIF => Fate::Refused,
        errno => match errno.checked_sub(libc::SECCOMP_RET_ERRNO).and_then(|errno| i32::try_from(errno).ok())
        {
            Some(0) => Fate::Pretended,
            Some(libc::EPERM) => Fate::Refused,
            Some(libc::ENOSYS) => Fate::Unknown,
            other => panic!("{other:?}"),
        },
    }
}

/// What should become of a call of this architecture, said once more without the compiler's terms.
fn wanted(profile: Profile, number: u32, arguments: [u64; 6]) -> Fate {
    match profile {
        Profile::Namespaces(netlink) => wanted_inside(netlink, number, arguments),
        Profile::Landlock { own_ids } => wanted_beside(own_ids, number, arguments),
    }
}

/// In the lower tier all is as elsewhere but this.
fn wanted_beside(own_ids: bool, number: u32, arguments: [u64; 6]) -> Fate {
    let [first, second, third, fourth, ..] = arguments.map(|argument| argument as u32);
    let call = i64::from(number);
    let of = |list: &[(i64, u8)]| list.iter().find(|(known, _)| *known == call).map(|(_, index)| *index);
    let refused_if = |condition: bool| condition.then_some(Fate::Refused);
    let beside = if let Some(flags) = of(&SENDS) {
        refused_if([third, fourth][usize::from(flags) - 2] & 0x2000_0000 != 0)
    } else if let (false, Some(_)) = (own_ids, of(&ABOUT_A_PID)) {
        refused_if(first != 0)
    } else if let (false, Some((_, kind))) = (own_ids, ABOUT_A_KIND.iter().find(|(known, _)| *known == call))
    {
        refused_if((u64::from(first), second) != (*kind, 0))
    } else {
        match call {
            libc::SYS_socketpair => refused_if(![1, 5].contains(&(second & 0xf))),
            libc::SYS_setsockopt => {
                refused_if(second == 6 && TCP_REFUSED.iter().any(|option| option.cast_unsigned() == third))
            }
            libc::SYS_setrlimit => refused_if(first == libc::RLIMIT_LOCKS),
            libc::SYS_prlimit64 => refused_if(second == libc::RLIMIT_LOCKS && arguments[2] != 0),
            _ => {
                refused_if(refused_beside(own_ids).iter().copied().flatten().any(|(_, known)| *known == call))
            }
        }
    };
    beside.unwrap_or_else(|| wanted_inside(NetlinkRule::Refused, number, arguments))
}

fn wanted_inside(netlink: NetlinkRule, number: u32, arguments: [u64; 6]) -> Fate {
    let is_in = |calls: &[Call]| calls.iter().any(|(_, known)| *known == i64::from(number));
    let [first, second, third, ..] = arguments.map(|argument| argument as u32);
    let low = |value: i32| value.cast_unsigned();
    let allowed_if = |condition| if condition { Fate::Allowed } else { Fate::Refused };
    if cfg!(target_arch = "x86_64") && number >= 0x4000_0000 && number != u32::MAX {
        return Fate::Killed;
    }
    let mode_of = |list: &[(i64, u8)]| {
        let (_, index) = list.iter().find(|(known, _)| *known == i64::from(number))?;
        Some(arguments[usize::from(*index)])
    };
    if let Some(mode) = mode_of(SETS_MODE).or(mode_of(MAKES)) {
        return allowed_if(mode & 0o6000 == 0);
    }
    if let Some((_, flags, mode)) = OPENS.iter().find(|(known, ..)| *known == i64::from(number)) {
        let [flags, mode] = [flags, mode].map(|index| arguments[usize::from(*index)]);
        // O_CREAT is 0o100, and __O_TMPFILE 0o20000000, on every architecture that this is built for.
        return allowed_if(flags & 0o2000_0100 == 0 || mode & 0o6000 == 0);
    }
    match i64::from(number) {
        libc::SYS_clone => allowed_if(first & low(NAMESPACE_FLAGS) == 0),
        libc::SYS_socket => allowed_if(match first as i32 {
            libc::AF_UNIX => true,
            libc::AF_INET | libc::AF_INET6 => match second as i32 & 0xf {
                libc::SOCK_STREAM => [0, libc::IPPROTO_TCP].contains(&(third as i32)),
                libc::SOCK_DGRAM => [0, libc::IPPROTO_UDP].contains(&(third as i32)),
                _ => false,
            },
            libc::AF_NETLINK => netlink == NetlinkRule::RouteOnly && third == low(libc::NETLINK_ROUTE),
            _ => false,
        }),
        libc::SYS_socketpair => allowed_if(first == low(libc::AF_UNIX)),
        libc::SYS_setsockopt => {
            let loads = PROGRAM_OPTIONS.iter().any(|option| low(*option) == third);
            let layers =
                LAYER_OPTIONS.iter().any(|(level, option)| (low(*level), low(*option)) == (second, third));
            allowed_if(!layers && (second != low(libc::SOL_SOCKET) || !loads))
        }
        libc::SYS_personality => allowed_if(first == 0 || first == u32::MAX),
        libc::SYS_ioctl => {
            let listed = IOCTLS.contains(&second.into());
            let reaches_others = TERMINAL_REFUSED.contains(&second.into());
            allowed_if(listed || ([0x54, 0x89].contains(&(second >> 8 & 0xff)) && !reaches_others))
        }
        libc::SYS_prctl => allowed_if(PRCTLS.iter().any(|option| low(*option) == first)),
        libc::SYS_setrlimit if first == libc::RLIMIT_CORE => Fate::Pretended,
        libc::SYS_prlimit64 if first == 0 && second == libc::RLIMIT_CORE => {
            match (arguments[2], arguments[3]) {
                (0, _) => Fate::Allowed,
                (_, 0) => Fate::Pretended,
                _ => Fate::Refused,
            }
        }
        libc::SYS_prlimit64 => allowed_if(first == 0),
        libc::SYS_seccomp => {
            let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
            allowed_if(match first {
                libc::SECCOMP_SET_MODE_FILTER => second & listener == 0,
                other => [0, 2, 3].contains(&other),
            })
        }
        _ if REFUSED.iter().copied().any(is_in) || is_in(REFUSED_HERE) => Fate::Refused,
        _ if ALLOWED.iter().copied().any(is_in) || is_in(ALLOWED_HERE) => Fate::Allowed,
        _ => Fate::Unknown,
    }
}

fn a_profile() -> impl Strategy<Value = Profile> {
    proptest::sample::select(&Profile::ALL[..])
}

fn all_calls() -> impl Iterator<Item = Call> {
    let lists = ALLOWED.iter().chain(REFUSED).copied();
    lists.chain([ALLOWED_HERE, REFUSED_HERE, BY_ARGUMENTS, UNKNOWN]).flatten().copied()
}

/// Numbers that mean something, in the 32 bits that count and with something above them.
fn an_argument() -> impl Strategy<Value = u64> {
    let small = 0_u64..64;
    let flag = (0_u32..32).prop_map(|bit| 1 << bit);
    let known = proptest::sample::select(
        [IOCTLS.as_slice(), &TERMINAL_REFUSED]
            .concat()
            .into_iter()
            .chain(
                PRCTLS
                    .iter()
                    .chain(&PROGRAM_OPTIONS)
                    .chain(&TCP_REFUSED)
                    .chain(LAYER_OPTIONS.iter().flat_map(|(level, option)| [level, option]))
                    .map(|value| u64::from(value.cast_unsigned())),
            )
            .collect::<Vec<_>>(),
    );
    let kind = (prop_oneof![Just(0x5400_u64), Just(0x8900), 0_u64..0x1_0000], 0_u64..256, 0_u64..0x1_0000)
        .prop_map(|(kind, number, size)| size << 16 | (kind & 0xff00) | number);
    let socket = (1_u64..4, prop_oneof![Just(0_u64), Just(0o2_000_000), Just(0o4_000)])
        .prop_map(|(kind, flags)| kind | flags);
    let value = prop_oneof![4 => small, 2 => flag, 3 => known, 2 => kind, 2 => socket, 1 => any::<u64>()];
    (value, prop_oneof![6 => Just(0_u64), 1 => Just(1_u64 << 32), 1 => Just(u64::MAX << 32)])
        .prop_map(|(value, above)| value | above)
}

fn a_number() -> impl Strategy<Value = u32> {
    let number = |(_, number): &Call| u32::try_from(*number).unwrap();
    let known: Vec<u32> = all_calls().map(|call| number(&call)).collect();
    let by_arguments: Vec<u32> = BY_ARGUMENTS.iter().chain(super::beside::BY_ARGUMENTS).map(number).collect();
    prop_oneof![
        6 => proptest::sample::select(by_arguments),
        4 => proptest::sample::select(known),
        2 => 0_u32..600,
        1 => (0_u32..600).prop_map(|number| number | 0x4000_0000),
        1 => any::<u32>(),
        1 => Just(u32::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn every_call_has_the_fate_that_the_tables_say(
        number in a_number(), arguments in proptest::array::uniform6(an_argument()),
        profile in a_profile(),
    ) {
        let Programs { plain, recorded, .. } = Programs::of(profile).unwrap();
        let made = Made { arch: HERE, number, arguments };
        prop_assert_eq!(fate(recorded, made), wanted(profile, number, arguments));
        // The one that records answers by a question where the other one answers by an error, and nowhere else.
        let by_error = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
        match run(plain, made) {
            refused if refused == by_error => {
                prop_assert_eq!(run(recorded, made), libc::SECCOMP_RET_USER_NOTIF);
            }
            other => prop_assert_eq!(run(recorded, made), other),
        }
        // What is put to the listener has a name.
        if run(recorded, made) == libc::SECCOMP_RET_USER_NOTIF {
            prop_assert!(refused_call(number.into()).is_some());
        }
    }

    #[test]
    fn a_foreign_architecture_is_the_end_whatever_the_call(number: u32, arch: u32, arguments: [u64; 6],
        profile in a_profile(),
    ) {
        prop_assume!(arch != HERE);
        prop_assert_eq!(fate(&Programs::of(profile).unwrap().recorded, Made { arch, number, arguments }), Fate::Killed);
    }
}

#[test]
fn the_profiles_differ_and_each_builds_the_same_twice() {
    let digest = |profile| Programs::new(profile).unwrap().digest();
    let all = Profile::ALL.map(digest);
    assert_eq!(all, Profile::ALL.map(digest));
    let places = Profile::ALL.map(Profile::index);
    assert_eq!(places, [0, 1, 2, 3]);
    for (index, one) in all.iter().enumerate() {
        assert!(!all[..index].contains(one), "{:?}", Profile::ALL[index]);
    }
}

#[test]
fn every_call_is_on_one_list_only() {
    let mut seen = std::collections::BTreeMap::new();
    for (name, number) in all_calls() {
        if let Some(before) = seen.insert(number, name) {
            panic!("{number} is {before} and {name}");
        }
    }
}

#[test]
fn names_are_those_of_the_manual() {
    assert_eq!(refused_call(libc::SYS_io_uring_setup), Some("io_uring_setup"));
    assert_eq!(refused_call(libc::SYS_clone), Some("clone"));
    assert_eq!(refused_call(libc::SYS_read), None);
    assert_eq!(refused_call(-1), None);
}

/// Whoever changes what an agent may do sees it here: the calls that are allowed with some arguments, by number.
#[test]
#[cfg(target_arch = "x86_64")]
fn what_is_allowed_on_x86_64_is_what_was_decided() {
    let ranges = |list: &mut dyn Iterator<Item = i64>| {
        let mut numbers: Vec<i64> = list.collect();
        numbers.sort_unstable();
        let runs = numbers.chunk_by(|a, b| a + 1 == *b);
        let run = |run: &[i64]| match run {
            [one] => one.to_string(),
            run => format!("{}-{}", run[0], run[run.len() - 1]),
        };
        runs.map(run).collect::<Vec<_>>().join(" ")
    };
    let numbers = |calls: &[&[Call]]| {
        ranges(
            &mut calls.iter().copied().flatten().map(|(_, number)| *number).collect::<Vec<_>>().into_iter(),
        )
    };
    insta::assert_snapshot!(numbers(&[ALLOWED, &[ALLOWED_HERE]].concat()), @"0-1 3-15 17-40 42-52 55 57-84 86-89 92-100 102 104-132 137-138 140-152 158 160 162 186-204 213 217-226 228-235 239 247 251-255 258 260-267 269-271 273-277 280-297 299 306-307 309 314-316 318-319 322 324-332 334 424 434 436-437 439 441 444-446 449 453 462");
    insta::assert_snapshot!(numbers(&[BY_ARGUMENTS]), @"2 16 41 53-54 56 85 90-91 133 135 157 257 259 268 302 317 452");
    insta::assert_snapshot!(numbers(&[REFUSED, &[REFUSED_HERE]].concat()), @"101 103 153-155 159 161 163-173 175-176 179 212 227 246 248-250 272 298 300-301 303-305 308 310-313 320-321 323 425-433 438 440 442-443 467");
}
