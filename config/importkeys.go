package config

import (
	"fmt"
	"strings"
)

// NoteKeysOf adds a notice for each key of the imported identity that another application of a
// configuration has, too: applications that share a key can act as each other. file is that
// configuration's, for the notice.
func (im *Imported) NoteKeysOf(cfg *Config, file string) {
	if im.Identity.Application == nil {
		return
	}
	for _, c := range im.Identity.Application.Credentials {
		if c.Source != SourceCertificate {
			continue
		}
		if other := cfg.otherWithKey(c.Key, im.Identity.Application.ClientID); other != "" {
			im.note(fmt.Sprintf("key %q: identity %q in %s has a credential with the key of this name, too; to keep the two apart, give this one a key of its own: another name at key, and keyagent key create with that name",
				c.Key, other, file))
		}
	}
}

// otherWithKey names an identity that uses a key and is not the application with this client id; ""
// if there is none.
func (c *Config) otherWithKey(key, clientID string) string {
	for _, id := range c.Identities {
		if id.Application == nil || strings.EqualFold(id.Application.ClientID, clientID) {
			continue
		}
		for _, credential := range id.Application.Credentials {
			if credential.Source == SourceCertificate && credential.Key == key {
				return id.Name
			}
		}
	}
	return ""
}
