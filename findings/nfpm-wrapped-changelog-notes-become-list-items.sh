#!/usr/bin/env bash
# nfpm v2.48.0 (packages for Debian and RPM from one description): a note of the changelog that is wrapped over
# two lines is two points in a .deb, and stays one in an .rpm.
#
# The changelog file is YAML, and a note may be a block with line breaks. For Debian, each line after the first
# gets a bullet of its own one level down, so the end of a sentence becomes an item of a list. For RPM, the second
# line stands in the first column, without a bullet.
#
# Expected: a line that continues a note is indented below it in both (Debian Policy 4.4: the change details are
# indented by at least two spaces), as dch(1) writes it.
#
# What it means: each note must be one line, whatever its length, or the two packages tell different stories.
#
# Seen with Go 1.26 on Debian 12:
#
#   deb: * The agent no longer waits for a service
#   deb: - that nobody has asked for.
#   rpm: - The agent no longer waits for a service
#   rpm: that nobody has asked for.
#
# Needs Go and its module proxy, ar, tar, and rpm. Exit status 0 if it is still so, 1 if not.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

GOBIN=$dir/bin GOFLAGS=-mod=mod GOWORK=off go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.48.0 >log 2>&1 || { cat log; exit 1; }

cat >changelog.yaml <<'YAML'
- semver: 1.0.0
  date: 2026-01-02T03:04:05Z
  packager: A Packager <packager@example.com>
  changes:
    - note: |-
        The agent no longer waits for a service
        that nobody has asked for.
YAML
cat >nfpm.yaml <<'YAML'
name: sample
arch: amd64
version: 1.0.0
maintainer: A Packager <packager@example.com>
description: A sample.
changelog: changelog.yaml
contents:
  - src: changelog.yaml
    dst: /usr/share/sample/file
YAML
for format in deb rpm; do bin/nfpm package -f nfpm.yaml -p "$format" -t "sample.$format" >>log; done

ar p sample.deb data.tar.gz | tar -xzOf - ./usr/share/doc/sample/changelog.Debian.gz | gunzip >notes-deb
rpm -qp --changelog sample.rpm >notes-rpm 2>>log
for format in deb rpm; do
	grep -E 'service|nobody' "notes-$format" | sed -e 's/^ *//' -e "s/^/$format: /"
done | tee got

cat >want <<'WANT'
deb: * The agent no longer waits for a service
deb: - that nobody has asked for.
rpm: - The agent no longer waits for a service
rpm: that nobody has asked for.
WANT
diff want got
