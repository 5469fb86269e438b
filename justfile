# The commands that matter. Each is a line that also works without just.

# All tests, the real OpenClaw among them.
test:
    scripts/test

# Formatting, lints, documentation.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Licences, bans, sources.
deny:
    cargo deny check licenses bans sources

# Figures: respawn, wiped to exec, isolation beside other sandboxes, a boot of twenty, 200 at rest, a policy's decision.
bench:
    cargo bench -p clawkeep --bench recovery
    cargo bench -p clawkeep --bench isolation
    cargo bench -p clawkeep --bench boot
    cargo bench -p clawkeep --bench idle
    cargo bench -p clawkeep-policy --bench policy

# The promises about times (P3 to P6) as a gate: fails when a median is over its limit, three times in a row. No release build.
gate:
    CLAWKEEP_BENCH_N=10 CLAWKEEP_BENCH_GATE=1 cargo bench --profile dev -p clawkeep --bench recovery --bench boot

# The proxy beside no proxy and beside tinyproxy.
bench-egress:
    cargo bench -p clawkeep --bench egress

# What the model route adds to the first byte and to each event.
bench-inference:
    cargo bench -p clawkeep-egress --bench inference

# A real language model of 135 million parameters on this host's loopback, by OpenAI's API: fetched once, then served.
model port="8081":
    scripts/small-model {{port}}

# A real reboot and a power cut, in a virtual machine with a systemd, cgroup v2 and AppArmor of its own.
reboot-test *ARGS:
    scripts/reboot-test {{ARGS}}

# Ubuntu's refusal of user namespaces, and the way out that doctor names, in a virtual machine with Ubuntu's kernel.
apparmor-test *ARGS:
    scripts/apparmor-test {{ARGS}}

# Attack sandboxes from inside, before and after a recovery: with the fake gateway as root, as a user and in the lower
# tier, and with the real OpenClaw.
drill:
    cargo nextest run -p clawkeep --test drill --test openclaw --run-ignored all -E 'binary(drill) | test(drill)'

# So many minutes at full load, with the fake gateway and then with the real OpenClaw: no restart.
soak minutes="60":
    CLAWKEEP_SOAK_MINUTES={{minutes}} cargo nextest run --release -p clawkeep --test hangs --test openclaw --run-ignored only -- soak_

# Faults at random on the fake gateway (a thousand rounds) and on the real one (fifty, then 200 mutated configurations).
chaos:
    cargo nextest run -p clawkeep --test campaign --test chaos --run-ignored all --no-capture

# Every effect of the store: the power goes, the call fails, the program is killed.
powercut:
    CLAWKEEP_POWERCUT=all cargo nextest run --test powercut --workspace

# Feed every parser of hostile text, or the one that is named, for so many seconds each. Needs cargo-fuzz and a nightly compiler.
fuzz target="" seconds="60":
    scripts/fuzz "{{target}}" {{seconds}}
