# What a developer runs, and CI too (.ci/run). Wants cargo-deny for `deny`, cargo-audit for `audit` and cargo-fuzz for `fuzz`; the
# services install what they need.

set shell := ["bash", "-euo", "pipefail", "-c"]

# lists the recipes
[private]
default:
    @just --list --unsorted

# everything that CI runs, cheapest first
ci: check fuzz test chaos instructions

# everything but the tests
check: fmt links deny audit ops clippy doc api
    scripts/sabotage --check

# formatting
fmt:
    cargo fmt --all --check

# what the pages link to within the repository
links:
    scripts/links

# lints, with no feature, each alone and all
clippy:
    cargo clippy --no-default-features --lib -- -D warnings
    cargo clippy --no-default-features --features kafka --lib -- -D warnings
    cargo clippy --no-default-features --features postgres --lib -- -D warnings
    cargo clippy --no-default-features --features sqlite --lib -- -D warnings
    cargo clippy --no-default-features --features testing --lib -- -D warnings
    cargo clippy --no-default-features --features axum --lib -- -D warnings
    cargo clippy --no-default-features --features metrics --lib -- -D warnings
    cargo clippy --no-default-features --features otel --lib -- -D warnings
    cargo clippy --no-default-features --features admin --lib -- -D warnings
    cargo clippy --no-default-features --features admin,postgres --lib -- -D warnings
    cargo clippy --no-default-features --features admin,sqlite --lib -- -D warnings
    cargo clippy --workspace --all-features --all-targets -- -D warnings

# documentation, public and private
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --all-features --no-deps
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --all-features --no-deps --document-private-items

# what is public, held against docs/public-api.txt
api:
    scripts/api

# dependencies: licences, sources, bans, and known vulnerabilities if their database can be fetched
deny:
    cargo deny --all-features check --hide-inclusion-graph bans licenses sources
    @if timeout 60 cargo deny fetch db; then \
      cargo deny --all-features check --hide-inclusion-graph advisories; \
    else \
      echo "WARNING: ADVISORIES NOT CHECKED: their database can't be fetched from here" >&2; \
    fi

# dependencies: what is known of their vulnerabilities, of all features and of the fuzzers, if the database of that can be fetched
audit:
    @if timeout 60 git ls-remote --quiet https://github.com/RustSec/advisory-db.git HEAD >/dev/null; then \
      cargo audit --deny yanked && cargo audit --deny yanked --file fuzz/Cargo.lock; \
    else \
      echo "WARNING: NOT AUDITED: the database of advisories can't be fetched from here" >&2; \
    fi

# alert rules and dashboard, by Prometheus' own tool
ops:
    scripts/ops

# parsers and decoders, so many seconds each, by libFuzzer: all of them, or those that are named
fuzz seconds="3" *targets:
    scripts/fuzz {{ seconds }} {{ targets }}

# all tests, against a real Kafka and a real PostgreSQL
test *args:
    scripts/test {{ args }}

# kills, stops, cuts and slows down services, relays, three brokers and a database, and checks the promises
chaos *args:
    scripts/chaos {{ args }}

# breaks the library on purpose, and shows the tests that notice: an hour or two for all
sabotage *words:
    scripts/sabotage {{ words }}

# changes each decision in the modules that only decide, and shows which no unit test notices: hours; wants cargo-mutants
mutants *args:
    cargo mutants {{ args }}

# the instructions of an emit, by valgrind: no more than there were
instructions:
    scripts/instructions

# so many runs of the simulation: millions take hours
simulate-long seeds="1000000":
    scripts/simulate --seeds {{ seeds }}

# writes anew what Apache Kafka's Java client makes of keys
vectors:
    scripts/strangers vectors >tests/vectors/murmur2.tsv.new
    mv tests/vectors/murmur2.tsv.new tests/vectors/murmur2.tsv

# the property tests of parsers and state machines, with so many cases each: minutes to hours
properties cases="20000":
    PROPTEST_CASES={{ cases }} cargo test --all-features --lib

# the example service and consumers on real ones, through an outage, watched by Prometheus; wants `services-start`
shop:
    set -a; eval "$(scripts/services env)"; eval "$(scripts/strangers)"; set +a; scripts/shop

# builds the examples
examples:
    cargo build --all-features --examples

# the quickstart, with nothing but this repository
quickstart:
    cargo run --all-features --example quickstart

# starts Kafka and PostgreSQL and prints their environment
services-start:
    @scripts/services start

# stops them and deletes their data
services-stop:
    scripts/services stop
