# programs.sh: sourced after check.sh by the scripts that run other projects' programs. P is the folder of the programs that kit/build-program.sh
# built; LOGS, set by the script, has a log of each.
P=$KIT_WORK/programs
# program NAME MODULE VERSION [PACKAGE]: builds it once; prints the folder with its sources
program() { "$here/kit/build-program.sh" "$@"; }
declare -A process_ids=()
# process NAME COMMAND...: runs it until `ended NAME` or the end of the script
process() { n=$1; shift; "$@" > "$LOGS/$n.log" 2>&1 < /dev/null & process_ids[$n]=$!; }
# ended NAME...: asks them to end and waits for it, ten seconds at most
ended() {
  for n; do kill "${process_ids[$n]}" 2>/dev/null; done
  for n; do
    for _ in $(seq 100); do kill -0 "${process_ids[$n]}" 2>/dev/null || break; sleep 0.1; done
    kill -9 "${process_ids[$n]}" 2>/dev/null; wait "${process_ids[$n]}" 2>/dev/null; unset "process_ids[$n]"
  done
}
trap 'ended "${!process_ids[@]}"' EXIT
