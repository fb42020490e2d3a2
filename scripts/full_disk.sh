#!/bin/sh
# A run on a disk that is too small, then on the same disk with room: it stops with exit 74 and one message, and goes on.
#
#   scripts/full_disk.sh BINARY PIPELINE OUT COPY
#
# PIPELINE writes to OUT/dataset; OUT becomes a tmpfs of its own in a namespace of its own, so it is empty again afterwards: the
# finished dataset is copied to COPY. Exits with 77 where namespaces or mounts are not permitted.
set -eu

if [ "${LM4LV_NAMESPACE:-}" != 1 ]; then
    unshare -rm true 2>/dev/null || { echo "unshare -rm is not permitted"; exit 77; }
    LM4LV_NAMESPACE=1 exec unshare -rm "$0" "$@"
fi
# What a run says besides is not counted.
export LM4LV_LOG=warn
binary=$1 pipeline=$2 out=$3 copy=$4
mount -t tmpfs -o size=4k none "$out" 2>/dev/null || { echo "mounting a tmpfs is not permitted"; exit 77; }

# run WANTED: a run with that exit code, and where it is 74 one line that says why.
run() {
    code=0
    "$binary" run "$pipeline" --progress none >"$copy.out" 2>"$copy.err" || code=$?
    if [ "$code" != "$1" ]; then
        echo "exit $code, not $1:"
        cat "$copy.out" "$copy.err"
        exit 1
    fi
    if [ "$code" = 74 ] && ! { [ "$(wc -l <"$copy.err")" = 1 ] && grep -q '^error: .*No space left on device' "$copy.err"; }; then
        echo "said:"
        cat "$copy.err"
        exit 1
    fi
}

# No room for the plan: nothing half-written may stand in its place.
run 74
if [ -e "$out/dataset/.lm4lv/plan.json" ]; then
    echo "a plan that was never whole stands"
    exit 1
fi
# Room for the plan and some parts.
mount -o remount,size=5m "$out"
run 74
"$binary" verify "$out/dataset" >/dev/null
parts=$(find "$out/dataset/data" -name "*.parquet" 2>/dev/null | wc -l)
run 74
echo "$parts parts on a full disk"
mount -o remount,size=64m "$out"
run 0
"$binary" verify "$out/dataset" --complete
cp -r "$out/dataset" "$copy"
