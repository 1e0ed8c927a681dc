package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// Part is a configuration file without identities and rules, such as one that an organisation has
// for all its machines: proxy, authorities, audit.
type Part struct {
	Config   *Config         // with the defaults of what the file does not say
	Settings map[string]bool // top-level settings that the file has
}

// ParsePart is [Parse] for such a file. Identities or rules in it are an error.
func ParsePart(name string, data []byte) (*Part, error) {
	cfg := defaults()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil && !errors.Is(err, io.EOF) {
		return nil, &Error{File: name, Problems: yamlProblems(data, err)}
	}
	given := map[string]yaml.Node{}
	if err := yaml.Unmarshal(data, &given); err != nil {
		return nil, &Error{File: name, Problems: yamlProblems(data, err)}
	}
	var f findings
	part := &Part{Config: &cfg, Settings: map[string]bool{}}
	for setting := range given {
		part.Settings[setting] = true
	}
	for _, setting := range []string{"identities", "rules"} {
		if part.Settings[setting] {
			f.add("%s: not in a file of settings for all machines", setting)
		}
	}
	whole := cfg
	whole.Identities, whole.Rules = []Identity{{Name: "any", ManagedIdentity: &ManagedIdentity{}}}, nil
	whole.complete()
	f = append(f, whole.problems()...)
	if len(f) > 0 {
		return nil, &Error{File: name, Problems: f}
	}
	return part, nil
}

// LoadPart is [ParsePart] for the file at path, which is read as [Load] reads one.
func LoadPart(path string) (*Part, []byte, error) {
	data, err := ReadTrusted(path)
	if err != nil {
		return nil, nil, fmt.Errorf("settings for all machines: %w", err)
	}
	part, err := ParsePart(path, data)
	return part, data, err
}
