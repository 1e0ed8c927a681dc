package certreq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/signer/certreq"
)

func TestParseSubjectAltName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"a DNS name", "DNS:app.example", "DNS:app.example"},
		{"one label", "DNS:localhost", "DNS:localhost"},
		{"a wildcard", "DNS:*.app.example", "DNS:*.app.example"},
		{"the kind in another case", "dns:App.example", "DNS:App.example"},
		{"an application id URI", "URI:api://8b0c3d0e-0000-4000-8000-00000000c1d1", "URI:api://8b0c3d0e-0000-4000-8000-00000000c1d1"},
		{"a SPIFFE id", "URI:spiffe://trust_domain.example/ns/a", "URI:spiffe://trust_domain.example/ns/a"},
		{"a URN", "URI:urn:uuid:1f2e3d4c-0000-4000-8000-0000000077e1", "URI:urn:uuid:1f2e3d4c-0000-4000-8000-0000000077e1"},
		{"a URI with port, query and escapes", "uri:https://[2001:db8::1]:8443/a%20b?c=d#e", "URI:https://[2001:db8::1]:8443/a%20b?c=d#e"},
		{"IPv4", "IP:10.0.0.1", "IP:10.0.0.1"},
		{"IPv6 in full", "IP:2001:0db8:0:0:0:0:0:1", "IP:2001:db8::1"},
		{"IPv4 in IPv6's form", "IP:::ffff:10.0.0.1", "IP:10.0.0.1"},
		{"an address of a mailbox", "email:app+x@mail.example", "email:app+x@mail.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := certreq.ParseSubjectAltName(tt.text)
			if err != nil || n.String() != tt.want {
				t.Errorf("%s, %v", n, err)
			}
			if again, err := certreq.ParseSubjectAltName(n.String()); err != nil || again != n {
				t.Errorf("%s is read as %s, %v", n, again, err)
			}
		})
	}
}

func TestParseSubjectAltNameRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text string }{
		{"nothing", ""},
		{"no kind", "app.example"},
		{"an unknown kind", "RID:1.2.3"},
		{"openssl's copy", "email:copy"},
		{"an empty DNS name", "DNS:"},
		{"two names in one", "DNS:a.example,DNS:b.example"},
		{"a space", "DNS: a.example"},
		{"an umlaut in a DNS name", "DNS:bücher.example"},
		{"a final dot", "DNS:app.example."},
		{"an empty label", "DNS:app..example"},
		{"a hyphen at the edge", "DNS:-app.example"},
		{"an underscore", "DNS:my_app.example"},
		{"a wildcard inside", "DNS:app.*.example"},
		{"a wildcard alone", "DNS:*"},
		{"a long label", "DNS:" + strings.Repeat("a", 64)},
		{"a long name", "DNS:" + strings.Repeat("a.", 127) + "a"},
		{"a NUL", "DNS:app\x00.example"},
		{"a network", "IP:10.0.0.0/8"},
		{"a zone", "IP:fe80::1%eth0"},
		{"an address with zeros in front", "IP:010.0.0.1"},
		{"a relative URI", "URI:/app"},
		{"a scheme alone", "URI:api:"},
		{"a scheme without host or path", "URI:api://"},
		{"a space in a URI", "URI:api://app/a b"},
		{"an umlaut in a URI", "URI:api://bücher"},
		{"a user and password", "URI:https://user:secret@app.example"},
		{"a host that is none", "URI:https://a..b/"},
		{"a percent sign alone", "URI:api://app/%"},
		{"a long URI", "URI:api://app/" + strings.Repeat("a", 2048)},
		{"a mailbox without domain", "email:app"},
		{"a mailbox without local part", "email:@mail.example"},
		{"a display name", "email:App <app@mail.example>"},
		{"two at signs", "email:a@b@mail.example"},
		{"dots at the edge", "email:.app@mail.example"},
		{"two dots in a row", "email:a..b@mail.example"},
		{"a long local part", "email:" + strings.Repeat("a", 65) + "@mail.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := certreq.ParseSubjectAltName(tt.text); err == nil {
				t.Errorf("read as %s", n)
			}
		})
	}
}

// The message must not repeat what was typed into a URI before the at sign.
func TestAPasswordInAURIIsNotRepeated(t *testing.T) {
	t.Parallel()
	_, err := certreq.ParseSubjectAltName("URI:https://user:secret@app.example")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// requestedAltNames lists the names that crypto/x509 finds in a request.
func requestedAltNames(t testing.TB, der []byte) []string {
	t.Helper()
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range request.DNSNames {
		names = append(names, "DNS:"+n)
	}
	for _, n := range request.URIs {
		names = append(names, "URI:"+n.String())
	}
	for _, n := range request.IPAddresses {
		names = append(names, "IP:"+n.String())
	}
	for _, n := range request.EmailAddresses {
		names = append(names, "email:"+n)
	}
	return names
}

// FuzzParseSubjectAltName: what is accepted is written so that it is read as the same, and
// crypto/x509 finds one name in the request, which means the same.
func FuzzParseSubjectAltName(f *testing.F) {
	for _, text := range []string{
		"DNS:app.example", "DNS:*.a", "URI:api://app", "URI:urn:a", "URI:https://[::1]:1/%41?b#c", "IP:10.0.0.1", "IP:::1", "IP:::ffff:1.2.3.4",
		"email:a@b.example", "email:copy", "RID:1.2", ":", "URI:a://b:c@d", "URI:HTTP://A/",
	} {
		f.Add(text)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := certreq.ParseSubjectAltName(text)
		if err != nil {
			return
		}
		if again, err := certreq.ParseSubjectAltName(n.String()); err != nil || again != n {
			t.Fatalf("%q: written as %s, which is read as %s, %v", text, n, again, err)
		}
		der, err := certreq.NewCertificateRequest(key, certreq.RequestOptions{Names: certreq.Names{AltNames: []certreq.SubjectAltName{n}}})
		if err != nil {
			t.Fatal(err)
		}
		want := n.String()
		if text, ok := strings.CutPrefix(want, "URI:"); ok {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			want = "URI:" + u.String() // requestedAltNames cannot show more than that
		}
		if got := requestedAltNames(t, der); !slices.Equal(got, []string{want}) {
			t.Fatalf("%s: crypto/x509 reads %q", want, got)
		}
	})
}
