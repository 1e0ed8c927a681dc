package main

import (
	"cmp"
	"regexp"
	"strings"
	"time"
)

// described is what git describe --tags --always --dirty prints: a tag, how many commits ago that
// was, the commit, and whether something is not committed. Without a tag it is the commit alone.
var described = regexp.MustCompile(`^(?:v(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.]+))?(?:-(\d+)-g([0-9a-f]+))?|([0-9a-f]{7,40}))(-dirty)?$`)

// packageVersion makes a version that dpkg and rpm sort as meant: a candidate before its release
// (~), later commits after it (+), and commits without any tag before all releases, by time.
func packageVersion(describe string, when time.Time) string {
	m := described.FindStringSubmatch(describe)
	if m == nil {
		return "0.0.0~" + regexp.MustCompile(`[^0-9A-Za-z.]+`).ReplaceAllString(cmp.Or(describe, "devel"), ".")
	}
	release, candidate, since, commit, untagged, dirty := m[1], m[2], m[3], m[4], m[5], m[6]
	var v strings.Builder
	if untagged != "" {
		v.WriteString("0.0.0~git" + when.Format("20060102.150405") + "." + untagged)
	} else {
		v.WriteString(release)
	}
	if candidate != "" {
		v.WriteString("~" + candidate)
	}
	if since != "" {
		v.WriteString("+" + since + ".g" + commit)
	}
	if dirty != "" {
		v.WriteString("+dirty")
	}
	return v.String()
}
