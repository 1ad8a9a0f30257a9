#!/bin/bash
# What is installed names only what is installed with it: links of the documents, paths of the unit.
set -u
build=$1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
log=$(cmake --install "$build" --prefix "$prefix" 2>&1) || { echo "$log"; exit 1; }

documents=$prefix/share/doc/berth
while read -r document; do
  while read -r link; do
    [[ -e $(dirname "$document")/$link ]] || fail "$document links to $link"
  done < <(grep -o '](\([^)#]*\)' "$document" | cut -c3- | grep -v '^$\|://')
done < <(find "$documents" -name '*.md')
[[ -s $documents/README.md ]] || fail "there is no README.md"

unit=$(find "$prefix" -name berthd.service)
grep -qx "ExecStart=$prefix/sbin/berthd" "$unit" || fail "the unit: $(grep ExecStart "$unit")"
for program in bin/berth sbin/berthd libexec/berth/berth-runner; do
  [[ -x $prefix/$program ]] || fail "there is no $program"
done
[[ -s $prefix/share/bash-completion/completions/berth ]] || fail "there is no completion"
page=$(sed -n 's/^Documentation=.*file://p' "$unit")
[[ $page == "$documents"/* && -s $page ]] || fail "the unit documents itself with $page"
for page in man1/berth.1 man1/berth-run.1 man8/berthd.8; do
  [[ -s $prefix/share/man/$page ]] || fail "there is no $page"
done

((failures == 0)) && echo "all passed"
exit $((failures > 0))
