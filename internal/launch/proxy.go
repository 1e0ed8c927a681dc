package launch

import (
	"slices"
	"strings"
)

// noProxyNames are the two spellings. Go prefers the first, Python the second, and curl knows only
// the second for some schemes; so a program gets both, with the same value.
func noProxyNames() []string { return []string{"NO_PROXY", "no_proxy"} }

// noProxy keeps requests to hosts away from proxies, besides those that are kept away already:
// @azure/identity and azure-identity for Python would send the secret to a proxy.
func noProxy(inherited map[string]string, hosts []string) []Variable {
	var entries []string
	for _, name := range noProxyNames() {
		for entry := range strings.SplitSeq(inherited[name], ",") {
			entries = append(entries, strings.TrimSpace(entry))
		}
	}
	entries = append(entries, hosts...)
	if slices.Contains(entries, "*") {
		entries = []string{"*"} // some programs know it only alone
	}
	value := strings.Join(distinct(entries), ",")
	var set []Variable
	for _, name := range noProxyNames() {
		set = append(set, plain(name, value))
	}
	return set
}

// distinct keeps the first of equal entries, and no empty one.
func distinct(entries []string) []string {
	var kept []string
	for _, entry := range entries {
		if entry != "" && !slices.Contains(kept, entry) {
			kept = append(kept, entry)
		}
	}
	return kept
}
