package config

import (
	"fmt"
	"slices"
	"strings"
)

// exampleResource stands in the rule where the settings name no resource.
const exampleResource = "https://vault.azure.net"

// ruleComment is a rule for the identity, commented out: an app's settings do not say as which user
// it runs.
func (im *Imported) ruleComment() string {
	var resources []string
	for _, r := range im.needs {
		resources = append(resources, fmt.Sprintf("%q", r))
	}
	after := ""
	if len(resources) == 0 {
		resources, after = []string{fmt.Sprintf("%q", exampleResource)}, "  # put the resource that the app asks for in place of it"
	}
	lines := []string{
		"# Without a rule, nobody gets a token of it. Name the user that the app runs as, and take the signs # away:",
		"# rules:",
		"#   - name: " + im.Identity.Name,
		"#     users: [USER]",
		"#     identities: [" + im.Identity.Name + "]",
		"#     resources: [" + strings.Join(resources, ", ") + "]" + after,
	}
	switch im.boundByAPIs() {
	case BoundRequire:
		lines = append(lines, "#     types: ["+TypePoP+"]")
	case BoundPrefer:
		lines = append(lines, "#     types: ["+TypeBearer+", "+TypePoP+"]")
	}
	return strings.Join(lines, "\n") + "\n"
}

// need notes a resource that the rule needs.
func (im *Imported) need(resource string) {
	if !slices.Contains(im.needs, resource) {
		im.needs = append(im.needs, resource)
	}
}
