#!/bin/sh
# Runs the Kafka soak: workers of one group are killed, frozen, thawed, asked to leave and started anew at random, the broker is
# killed and restarted twice in every round, and at the end every offset must be in the dataset once. Each round prints a line.
#
#   scripts/soak.sh                                          3 rounds of 20,000 messages on 12 partitions
#   LM4LV_ROUNDS=100 LM4LV_MESSAGES=2000 LM4LV_PARTITIONS=6 scripts/soak.sh
#   LM4LV_SEED=17 LM4LV_ROUNDS=1 scripts/soak.sh             a round again, as far as its seed decides it
#
# Needs Java, and Maven the first time (see tests/kafka/jars.rs). LM4LV_LOG=debug makes the workers' logs, which are shown where a
# round fails, say more.
set -eu
cd "$(dirname "$0")/.."
export LM4LV_REQUIRE_KAFKA=1
export LM4LV_ROUNDS="${LM4LV_ROUNDS:-3}"
exec cargo test --release --test kafka soak -- --ignored --nocapture
