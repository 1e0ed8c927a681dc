package config

import (
	"fmt"
	"slices"
	"strings"
)

// protocolMTLSPoP is the ProtocolScheme of an API whose tokens are bound to a certificate.
const protocolMTLSPoP = "MTLS_POP"

// api is the section of an API that the app calls (DownstreamApiOptions of
// Microsoft.Identity.Abstractions).
type api struct{ *settings }

// bound reports whether the app asks for tokens for the API that are bound to a certificate.
func (a api) bound() bool { return strings.EqualFold(a.text("ProtocolScheme"), protocolMTLSPoP) }

// managedIdentity returns the setting by which a managed identity gets the tokens in place of the
// app registration; nil if there is none.
func (a api) managedIdentity() *settings { return a.at("AcquireTokenOptions:ManagedIdentity") }

// isAPI reports whether a section is that of an API.
func isAPI(s *settings) bool {
	return s.at("AcquireTokenOptions") != nil || s.has("ProtocolScheme") || s.has("BaseUrl") && s.has("Scopes")
}

// findAPIs returns the sections of APIs. A section for the decryption of tokens is no call of an
// API.
func findAPIs(root *settings) []api {
	var apis []api
	for _, s := range root.find(isAPI) {
		if !strings.Contains(strings.ToLower(s.path), "decryptkeysauthenticationoptions") {
			apis = append(apis, api{s})
		}
	}
	return apis
}

// apisOf returns the APIs for which an app registration gets tokens of its own, not of users: those
// that name no managed identity, and no other section.
func apisOf(root, section *settings) []api {
	return slices.DeleteFunc(findAPIs(root), func(a api) bool {
		name := a.text("AcquireTokenOptions:AuthenticationOptionsName")
		own := a.bound() || strings.EqualFold(a.text("RequestAppToken"), "true")
		return !own || a.managedIdentity() != nil || name != "" && !strings.EqualFold(name, section.name)
	})
}

func (s *settings) usesManagedIdentity() bool { return s != nil && api{s}.managedIdentity() != nil }

// managedIdentities returns a section for each managed identity that gets tokens without an app
// registration.
func (a appSettings) managedIdentities() []*settings {
	var sections []*settings
	seen := map[string]bool{}
	for _, s := range findAPIs(a.root) {
		if !s.usesManagedIdentity() {
			continue
		}
		if id := s.managedIdentityID(); !seen[id] {
			seen[id] = true
			sections = append(sections, s.settings)
		}
	}
	return sections
}

// managedIdentityID is a client id, or nothing for the system-assigned identity.
func (a api) managedIdentityID() string {
	return strings.ToLower(plainGUID(a.managedIdentity().text("UserAssignedClientId")))
}

// takeManagedIdentityAlone imports the managed identity of an API's section, with the other APIs
// that it is for.
func (im *Imported) takeManagedIdentityAlone(root *settings) error {
	chosen := api{im.section}
	id := plainGUID(chosen.managedIdentity().text("UserAssignedClientId"))
	if id != "" && !isGUID(id) {
		return fmt.Errorf("%s.UserAssignedClientId: %q is not a GUID", chosen.managedIdentity().label(), id)
	}
	for _, a := range findAPIs(root) {
		if a.usesManagedIdentity() && a.managedIdentityID() == chosen.managedIdentityID() {
			im.apis = append(im.apis, a)
		}
	}
	m := &ManagedIdentity{ManagedIdentitySelector: ManagedIdentitySelector{ClientID: id}}
	im.Identity = Identity{Name: "vm", ManagedIdentity: m}
	if m.Bound = im.boundByAPIs(); m.Bound == BoundNever {
		im.note(chosen.label() + ": its ProtocolScheme is not MTLS_POP, hence bound: never, and the token comes from IMDS as it does without keyagent; " +
			"with require a copy of the credential is worthless; the host must offer that")
	}
	for _, notice := range chosen.managedIdentity().unused(chosen.managedIdentity().label()+".", []string{"userassignedclientid"}) {
		im.note(notice)
	}
	im.noteAPIs(im.apis)
	return nil
}

// boundByAPIs returns what the app's APIs demand of the credential: require if all tokens are to be
// bound, prefer if some are, never if none is.
func (im *Imported) boundByAPIs() string {
	bound := 0
	for _, a := range im.apis {
		if a.bound() {
			bound++
		}
	}
	switch {
	case bound == 0:
		return BoundNever
	case bound < len(im.apis):
		return BoundPrefer
	}
	return BoundRequire
}

// noteAPIs notes what the app's rule needs.
func (im *Imported) noteAPIs(called []api) {
	for _, a := range called {
		resource := strings.TrimSuffix(a.firstScope(), defaultScope)
		needs := ""
		if isResource(resource) {
			needs = fmt.Sprintf(" resources: [%q],", resource)
			im.need(resource)
		}
		if a.bound() {
			im.note(a.label() + ": asks for tokens that are bound to a certificate (MTLS_POP): its rule needs" + needs + " types: [" + TypePoP + "]")
		} else if needs != "" {
			im.note(a.label() + ": its rule needs" + strings.TrimSuffix(needs, ","))
		}
	}
}

// calledBy returns the APIs that a rule of an app registration is about: those of apisOf, and those
// whose scope is of an app's own tokens, also if the settings do not say so: then the code does.
func (im *Imported) calledBy(root *settings) []api {
	return slices.DeleteFunc(findAPIs(root), func(a api) bool {
		own := slices.ContainsFunc(im.apis, func(own api) bool { return own.settings == a.settings })
		name := a.text("AcquireTokenOptions:AuthenticationOptionsName")
		elsewhere := a.managedIdentity() != nil || name != "" && !strings.EqualFold(name, im.section.name)
		return !own && (elsewhere || !strings.HasSuffix(a.firstScope(), defaultScope))
	})
}

// defaultScope ends the scope of an app's own tokens for a resource.
const defaultScope = "/.default"

// firstScope is that of a list, or of a text.
func (a api) firstScope() string {
	if list := a.at("Scopes").list(); len(list) > 0 {
		return a.text("Scopes:" + list[0].name)
	}
	scope, _, _ := strings.Cut(a.text("Scopes"), " ")
	return scope
}
