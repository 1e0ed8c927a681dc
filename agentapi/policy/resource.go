package policy

import (
	"errors"
	"fmt"
	"strings"
)

// MaxResourceBytes limits a resource; App ID URIs are at most 255 characters.
const MaxResourceBytes = 512

// defaultScope makes a scope of a resource: all permissions that were granted.
const defaultScope = "/.default"

// Resource is a protected resource in two forms. The zero value is no resource.
type Resource struct {
	asked, compared string
}

// ParseResource accepts a resource as SDKs write it: with or without a trailing slash, with or
// without "/.default" (resource "https://r/" has the scope "https://r//.default"). It refuses texts
// that could mean two things.
func ParseResource(s string) (Resource, error) {
	if len(s) > MaxResourceBytes {
		return Resource{}, fmt.Errorf("resource is longer than %d bytes", MaxResourceBytes)
	}
	if i := strings.IndexFunc(s, unsafeInResource); i >= 0 {
		return Resource{}, fmt.Errorf("resource %q has a character that no resource has, at byte %d", s, i)
	}
	asked := strings.TrimSuffix(s, defaultScope)
	compared := strings.TrimSuffix(asked, "/")
	if compared == "" {
		return Resource{}, errors.New("resource is empty")
	}
	if strings.HasSuffix(compared, "/") || strings.HasSuffix(compared, defaultScope) {
		return Resource{}, fmt.Errorf("resource %q ends in more than one slash or %q", s, defaultScope)
	}
	return Resource{asked: asked, compared: compared}, nil
}

// unsafeInResource reports whether r is not a printable ASCII character, or is one that separates
// scopes (RFC 6749, 3.3: space) or is excluded there.
func unsafeInResource(r rune) bool {
	return r <= ' ' || r >= 0x7f || r == '"' || r == '\\'
}

// String returns the form in which rules are compared: without a trailing slash.
func (r Resource) String() string { return r.compared }

// Asked returns the form that the caller used, without "/.default" but with its trailing slash.
// This form is sent upstream and repeated in the answer: some resources take only tokens whose
// audience has the slash, and SDKs expect to read the form that they sent.
func (r Resource) Asked() string { return r.asked }
