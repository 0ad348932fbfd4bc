#!/bin/sh
# Measures this bundle on an Android phone, from any machine with adb:    sh measure.sh [SERIAL] [THREADS]
# Each visit to a workload is a file in results/. Stopped at any moment and started again, it resumes.
# Then bring this folder back and run: nas bundle collect FOLDER --out table.csv
set -u
cd "$(dirname "$0")" || exit 2
SERIAL=${1:-}; THREADS=${2:-1}; REMOTE=/data/local/tmp/nas; THROTTLED=1; WAITS=60

die() { echo "measure.sh: $*" >&2; exit 2; }
hash_of() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }
phone() { if [ -n "$SERIAL" ]; then adb -s "$SERIAL" "$@"; else adb "$@"; fi; }
on_phone() { phone shell "$1" </dev/null 2>/dev/null; }
disconnected() { die "the phone is disconnected; connect it and run the same command again: finished visits are kept"; }
connected() { [ "$(phone get-state 2>/dev/null)" = device ]; }
thermal() { on_phone "dumpsys thermalservice" | sed -n 's/.*Thermal Status: \([0-9]*\).*/\1/p' | head -n 1; }

command -v adb >/dev/null || die "adb is not on the PATH; install Android's platform-tools"
adb start-server >/dev/null 2>&1
connected || die "no phone: connect one, allow USB debugging, and name it (adb devices) as the first argument if there are several"
BUNDLE=$(sed -n '1s/^# //p' files.sha256)
grep -v '^#' files.sha256 | while read -r digest name; do
    [ "$(hash_of < "$name")" = "$digest" ] || die "$name was changed after it was packed; pack the bundle again"
done || exit 2

push() {  # file, name on the phone: unless the same file is there
    mine=$(hash_of < "$1"); its=$(on_phone "sha256sum $REMOTE/$2" | cut -d' ' -f1)
    [ "$mine" = "$its" ] || phone push "$1" "$REMOTE/$2" >/dev/null 2>&1 || { connected || disconnected
        die "cannot copy $1 to the phone; free some space on it"; }
}

on_phone "mkdir -p $REMOTE"
TOOL=$REMOTE/benchmark_model
if [ -e benchmark_model ]; then
    push benchmark_model benchmark_model; on_phone "chmod 755 $TOOL"
else
    [ "$(on_phone "test -x $TOOL && echo yes")" = yes ] ||
        die "put LiteRT's benchmark_model for the phone on it as $TOOL (see docs/jobs/profile_a_phone.md)"
fi
PHONE_INFO=$(on_phone "getprop ro.product.manufacturer; getprop ro.product.model; getprop ro.soc.model; getprop ro.product.cpu.abi;
    getprop ro.build.version.release; getprop ro.build.fingerprint; sha256sum $TOOL | cut -c1-12" | tr -d '\r' | tr '\n' '|')
GOVERNORS=$(on_phone "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null | sort | uniq -c" | tr -s '\r\n ' ' ')
PHONE_HASH=$(printf '"%s"' "$(phone get-serialno)" | hash_of | cut -c1-12)  # as nas does: serial numbers are not published
mkdir -p results

run() {  # name of the part, file: prints the tool's output and exit code
    name=$(echo "$2" | sed 's#.*/##'); push "$2" "$BUNDLE-$name"
    echo "== $1"
    on_phone "$TOOL --graph=$REMOTE/$BUNDLE-$name --use_xnnpack=true --num_threads=$THREADS --num_runs=3 --min_secs=0.2 \
        --warmup_runs=1 --warmup_min_secs=0.2 --max_secs=300 2>&1; echo exit: \$?" | tr -d '\r'
}

TOTAL=$(wc -l < plan.txt | tr -d ' '); COUNT=0
while read -r round number one several reference; do
    COUNT=$((COUNT + 1)); result=results/$round-$number.txt
    [ -e "$result" ] && continue
    waits=0
    while :; do
        {
            echo "bundle: $BUNDLE"; echo "visit: $round $number"; echo "phone: $PHONE_HASH|$PHONE_INFO"; echo "governors: $GOVERNORS"
            echo "threads: $THREADS"
            run reference "$reference"; run one "$one"
            [ "$several" = - ] || run several "$several"
        } > results/.writing || exit 2
        connected || disconnected
        status=$(thermal); status=${status:-0}
        [ "$status" -lt $THROTTLED ] && break
        waits=$((waits + 1)); [ $waits -le $WAITS ] || die "the phone stays throttled; let it cool down and run the same command again"
        echo "phone is throttled (thermal status $status): waiting"; sleep 10
    done
    echo "digest: $({ echo "$BUNDLE"; cat results/.writing; } | hash_of)" >> results/.writing
    sync; mv results/.writing "$result"
    echo "[$COUNT/$TOTAL] $one: $(sed -n 's/.*count=.* median=\([0-9]*\).*/\1 us/p' "$result" | tail -n 1)"
done < plan.txt
echo "done: bring this folder back and run 'nas bundle collect FOLDER --out table.csv'"
