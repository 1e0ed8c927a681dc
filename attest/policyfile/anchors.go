package policyfile

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/attest"
)

// pemFiles is the advice about an entry that names a file.
const pemFiles = "write the path of a PEM file"

// anchors replaces built-in anchors, each kind that is named. Revocation lists come last, whatever
// their place in the file: they belong to the roots that are in force.
func (d *decoder) anchors(n *yaml.Node, p *Policy, read func(string) ([]byte, error)) {
	a := &p.Anchors
	f := files{d, p, read}
	var lists *yaml.Node
	d.mapping(n, "anchors", members{
		"amd": func(n *yaml.Node) {
			a.AMD = nil
			f.each(n, "anchors.amd", func(data []byte) error {
				roots, err := attest.ParseAMDRoots(data)
				a.AMD = append(a.AMD, roots...)
				return err
			})
		},
		"intel": func(n *yaml.Node) { a.Intel = f.certificates(n, "anchors.intel", attest.ParseIntelRoots) },
		"vtpm_roots": func(n *yaml.Node) {
			a.VTPM = f.certificates(n, "anchors.vtpm_roots", attest.ParseVTPMRoots)
		},
		"vtpm_intermediates": func(n *yaml.Node) {
			a.VTPMIntermediates = f.certificates(n, "anchors.vtpm_intermediates", attest.ParseVTPMRoots)
		},
		"amd_revocation_lists": func(n *yaml.Node) { lists = n },
	})
	if lists != nil {
		p.Rules.RequireRevocationList = true // a line without a list would not be checked, unnoticed
		f.each(lists, "anchors.amd_revocation_lists", func(data []byte) error { return addRevocationList(a.AMD, data) })
	}
}

// files reads what a policy names.
type files struct {
	*decoder
	policy *Policy
	read   func(string) ([]byte, error)
}

// each takes the content of each file of a list, of which there must be one.
func (f files) each(n *yaml.Node, name string, take func([]byte) error) {
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		f.empty(n, name)
	}
	f.list(n, name, func(entry *yaml.Node) {
		path, ok := f.text(entry, "an entry of "+name, pemFiles)
		if !ok {
			return
		}
		data, err := f.read(path)
		if err == nil {
			sum := sha256.Sum256(data)
			f.policy.Origin.Named = append(f.policy.Origin.Named, Named{name, path, hex.EncodeToString(sum[:])})
			err = take(data)
		}
		if err != nil {
			f.refuse(entry, pemFiles, "%s: %.200q: %v", name, path, err)
		}
	})
}

func (f files) certificates(n *yaml.Node, name string, parse func([]byte) ([]*x509.Certificate, error)) []*x509.Certificate {
	var all []*x509.Certificate
	f.each(n, name, func(data []byte) error {
		list, err := parse(data)
		all = append(all, list...)
		return err
	})
	return all
}

// addRevocationList gives a list, PEM or DER as AMD serves it, to the root that issued it.
func addRevocationList(roots []attest.AMDRoot, data []byte) error {
	if block, rest := pem.Decode(data); block != nil {
		if block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) > 0 {
			return errors.New("not one revocation list (X509 CRL) alone")
		}
		data = block.Bytes
	}
	list, err := x509.ParseRevocationList(data)
	if err != nil {
		return err
	}
	for _, e := range list.Extensions {
		if e.Critical { // a list of some certificates only (RFC 5280, 5.2.4 and 5.2.5)
			return errors.New("the list does not say that it is about all certificates: it has a critical extension")
		}
	}
	found := false
	for i := range roots {
		if list.CheckSignatureFrom(roots[i].ARK) != nil {
			continue
		}
		if roots[i].CRL != nil {
			return errors.New("a second list of one root")
		}
		roots[i].CRL, found = list, true
	}
	if !found {
		return errors.New("the list is signed by no AMD root that is in force here")
	}
	return nil
}
