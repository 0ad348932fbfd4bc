#!/usr/bin/env bash
# Checks the apps for iOS and Android as far as a machine without Xcode and the Android SDK can.
#
# Kotlin: compiles core, and runs it on apps/golden and on random texts; compiles the app against declarations of the
# Android and LiteRT classes that it uses. Swift: parses the sources, so that syntax errors are found.
# Needs java, npm and Debian's libandroid-json-java; the compilers are installed once into the folder BUILD. Takes about
# a minute of one core.
#
# Usage: apps/check.sh [BUILD]
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
build="$(realpath -m "${1:-build/apps}")"
json=/usr/share/java/com.android.json.jar
kotlin="$build/node_modules/kotlin-compiler"
mkdir -p "$build"

[ -e "$json" ] || { echo "check.sh: $json is missing; run: apt install libandroid-json-java" >&2; exit 2; }
[ -d "$kotlin" ] || npm install --prefix "$build" --ignore-scripts --no-audit --no-fund --silent kotlin-compiler@2.4.20
[ -d "$build/parsers" ] || "$python" -m pip install --quiet --disable-pip-version-check --target "$build/parsers" \
    tree-sitter==0.26.1 tree-sitter-swift==0.7.4

echo "Kotlin: compile"
java -Xmx1g -cp "$kotlin/lib/kotlin-preloader.jar" org.jetbrains.kotlin.preloading.Preloader \
    -cp "$kotlin/lib/kotlin-compiler.jar" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
    -Werror -jvm-target 17 -classpath "$json" -d "$build/android.jar" apps/android/core/src apps/android/app/src apps/android/declarations
echo "Kotlin: run"
program=(java -cp "$build/android.jar:$kotlin/lib/kotlin-stdlib.jar:$json" nas.clip.CheckGoldenKt)
"${program[@]}" apps/golden
"$python" -m apps.golden.compare "${program[@]}"
echo "Swift: parse"
PYTHONPATH="$build/parsers" "$python" apps/golden/parse_swift.py apps/ios
