#!/bin/bash
# The manual pages render without a warning; bash takes the completion script and completes with it.
set -u
directory=$1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

if command -v groff >/dev/null; then
  for page in "$directory"/*.[18]; do
    warnings=$(groff -man -ww -z -Tutf8 "$page" 2>&1)
    [[ -z $warnings ]] || fail "$page: $warnings"
  done
else
  echo "SKIPPED: manual pages: groff is not installed: scripts/install-packages --test"
fi
for page in berth berth-run berth-check berth-history berth-show berth-efficiency berth-doctor berth-version berth-exec \
  berth-report berth-top; do
  [[ -s $directory/$page.1 ]] || fail "there is no $page.1"
done
[[ -s $directory/berthd.8 ]] || fail "there is no berthd.8"

# shellcheck source=/dev/null
source "$directory/completion/berth" || fail "the completion does not load"
complete -p berth >/dev/null || fail "nothing completes berth"

# completes WORDS… : what pressing Tab after the last word offers, one a line
completes() {
  COMP_WORDS=("$@")
  COMP_CWORD=$(($# - 1))
  COMPREPLY=()
  _berth 2>/dev/null
  printf '%s\n' "${COMPREPLY[@]}"
}
offers() {
  local wanted=$1
  shift
  completes "$@" | grep -qxF -- "$wanted" || fail "'$*' does not offer '$wanted', but: $(completes "$@" | tr '\n' ' ')"
}
refuses() {
  local unwanted=$1
  shift
  ! completes "$@" | grep -qxF -- "$unwanted" || fail "'$*' offers '$unwanted'"
}

offers run berth r
refuses generate berth ''
offers history berth --database x.db hi
offers --network berth run --net
offers --cpus-per-task berth run --c
refuses --schema berth run --s
offers --schema berth check --s
offers loopback berth run --network l
offers loopback berth run --network = l
offers none berth run --network = ''
offers TIMEOUT berth history -s T
offers FAILED,TIMEOUT berth history -s FAILED,T
offers MaxRSS berth history --format Max
offers JobID,State berth history -o JobID,Sta
offers debug berth --log-level d
offers doctor berth help d

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
touch "$temporary/night.json"
mkdir "$temporary/sp ace" "$temporary/star*"
touch "$temporary/sp one.json" "$temporary/star.json"
offers "$temporary/night.json" berth run "$temporary/ni"
offers "$temporary/night.json" berth check "$temporary/ni"
offers "$temporary/sp one.json" berth run "$temporary/sp"
offers "$temporary/sp ace" berth run -D "$temporary/sp"
offers "$temporary/star*" berth run -D "$temporary/st"
refuses "$temporary/star.json" berth run -D "$temporary/st"
offers true berth run -- tru
offers true berth submit -- tru
offers true berth exec 12 -- tru

# Job ids: berthd is asked for those in the states that make sense for the command.
mkdir "$temporary/bin"
cat >"$temporary/bin/berth" <<'END'
#!/bin/sh
case "$*" in
  *"/other.sock"*) echo '77|other' ;;
  "queue -n -P") printf '%s\n' '11|waits' '12_4|task' '13_[5-99]|array' ;;
  "queue -n -P --state RUNNING") echo '12_4|task' ;;
  "queue -n -P --state PENDING") printf '%s\n' '11|waits' '13_[5-99]|array' ;;
  "queue -n -P --state SUSPENDED") ;;
  "history -n -P -o JobID --last 50") echo 5 ;;
esac
END
chmod +x "$temporary/bin/berth"
PATH=$temporary/bin:$PATH
offers 11 berth cancel ''
offers 12_4 berth cancel ''
offers 13 berth cancel 1
refuses 5 berth cancel ''
offers 12_4 berth exec ''
refuses 11 berth exec ''
offers 11 berth hold ''
refuses 12_4 berth hold ''
refuses 12_4 berth resume ''
offers 5 berth show ''
offers 11 berth show ''
offers 5 berth logs ''
offers 5 berth history -j ''
offers USR1 berth signal U
offers 12_4 berth signal USR1 ''
offers 77 berth --socket /other.sock cancel ''
offers cancel berth --socket /other.sock can
offers RUNNING berth queue --state R
offers root berth queue --user roo
offers day berth report --by d
offers Jobs,OOMKills berth report -o Jobs,OOM
offers Dependency berth queue -o Dep
offers Runner berth slots -o R

((failures == 0)) && echo "all passed"
exit $((failures > 0))
