package config

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// YAML returns the configuration as a file that [Parse] reads as the same again.
// Settings without a value are left out.
func (c *Config) YAML() ([]byte, error) {
	var node yaml.Node
	if err := node.Encode(c); err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	if handle := member(member(&node, "binding_key"), "persistent_handle"); handle != nil {
		handle.Value = fmt.Sprintf("0x%08x", c.BindingKey.PersistentHandle) // the usual form of a handle
	}
	c.explainAny(member(&node, "rules"))
	return encode(&node)
}

// explainAny adds a comment to each "*" about what it does not cover.
func (c *Config) explainAny(rules *yaml.Node) {
	if rules == nil {
		return
	}
	for _, rule := range rules.Content {
		if resources := member(rule, "resources"); resources != nil && len(resources.Content) == 1 && resources.Content[0].Value == AnyResource {
			resources.Content[0].LineComment = "any but " + strings.Join(c.AssertionAudiences(), ", ")
		}
	}
}

// Settings returns what YAML prints as maps and lists, for printing in another form.
func (c *Config) Settings() (map[string]any, error) {
	text, err := c.YAML()
	if err != nil {
		return nil, err
	}
	var settings map[string]any
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return settings, nil
}

func encode(node *yaml.Node) ([]byte, error) {
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return text.Bytes(), nil
}

// member returns the value of a name in a mapping, nil if it is not there.
func member(mapping *yaml.Node, name string) *yaml.Node {
	if mapping == nil {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// IsZero reports whether the defaults apply. With an empty list they do not: it
// trusts no host.
func (t TrustedHosts) IsZero() bool { return t.MTLS == nil && t.Attestation == nil }

// MarshalYAML keeps a missing list and an empty one apart.
func (t TrustedHosts) MarshalYAML() (any, error) {
	lists := map[string][]string{}
	if t.MTLS != nil {
		lists["mtls"] = t.MTLS
	}
	if t.Attestation != nil {
		lists["attestation"] = t.Attestation
	}
	return lists, nil
}
