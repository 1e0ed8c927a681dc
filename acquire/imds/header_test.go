package imds_test

import (
	"slices"
	"testing"

	"github.com/keyagent/keyagent/acquire/imds"
)

// Like Microsoft's own clients, this one names itself in each request.
func TestEveryRequestNamesTheClient(t *testing.T) {
	refusal := []answer{{status: 400, body: "{}"}}
	for name, ask := range map[string]func(*imds.Client) error{
		"platform metadata": func(c *imds.Client) error {
			_, err := c.PlatformMetadata(t.Context(), imds.Selector{})
			return err
		},
		"certificate": func(c *imds.Client) error {
			_, err := c.IssueCredential(t.Context(), imds.Selector{}, imds.CredentialRequest{CSR: []byte{1}, BypassCache: true})
			return err
		},
		"token": func(c *imds.Client) error {
			_, err := c.Token(t.Context(), imds.Selector{}, vault())
			return err
		},
		"region": func(c *imds.Client) error {
			_, err := c.Region(t.Context())
			return err
		},
		"probe": func(c *imds.Client) error {
			_, err := c.Probe(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stub{answers: refusal}
			client, _ := newClient(t, s)
			_ = ask(client) // what was asked counts
			if len(s.seen) == 0 {
				t.Fatal("nothing was asked")
			}
			for _, r := range s.seen {
				if sku, version := r.Header["X-Client-Sku"], r.Header["X-Client-Ver"]; !slices.Equal(sku, []string{"keyagent"}) || !slices.Equal(version, []string{"1.2.3"}) {
					t.Errorf("%s: x-client-SKU %q, x-client-Ver %q", r.URL, sku, version)
				}
			}
		})
	}
}
