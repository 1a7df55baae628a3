#!/bin/bash
# clients.sh KUBECONFIG [go|python|java|rust]...: what programs on client-go, controller-runtime, the Python client, both Java clients (the
# official one and Fabric8's) and kube-rs do, against real containers. The first two by default. Programs are built below KIT_WORK. Each ends with 'N passed, N failed'.
set -eu
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
config=$(realpath "$1"); shift; [ $# -gt 0 ] || set -- go python
PYTHON_CLIENT=37.0.2
failed=0
for client; do
  case $client in
  go)
    (cd "$here/clients" && go build -o "$KIT_WORK/bin/clients" .)
    "$KIT_WORK/bin/clients" "$config" 2> "$KIT_WORK/clients.log" || { failed=1; tail -20 "$KIT_WORK/clients.log"; };;
  python)
    venv=$KIT_WORK/python-client-$PYTHON_CLIENT
    [ -e "$venv/ready" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q "kubernetes==$PYTHON_CLIENT" && touch "$venv/ready"; }
    "$venv/bin/python" "$here/clients/python.py" "$config" || failed=1;;
  java)
    classes=$KIT_WORK/java-clients; mkdir -p "$classes"
    mvn -q -B -f "$here/clients/java/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory="$classes/lib"
    javac -d "$classes" -cp "$classes/lib/*" "$here"/clients/java/*.java
    for program in Official Fabric8; do java -cp "$classes:$classes/lib/*" $program "$config" || failed=1; done;;
  rust)
    cargo run -q --manifest-path "$here/clients/rust/Cargo.toml" --target-dir "$KIT_WORK/rust-client" -- "$config" || failed=1;;
  *) echo "usage: clients.sh KUBECONFIG [go|python|java|rust]..."; exit 2;;
  esac
done
exit $failed
