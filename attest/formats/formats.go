package formats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/attest"
)

// Format names a form.
type Format string

// The forms of evidence and of results. A request with evidence in it is made by [Attribute].
const (
	Bundle      Format = "bundle"
	EAT         Format = "eat"
	EAR         Format = "ear"
	EARVeraison Format = "ear-veraison"
)

// OfEvidence lists the forms that WriteEvidence writes.
func OfEvidence() []Format { return []Format{Bundle, EAT} }

// OfResults lists the forms that WriteResult writes.
func OfResults() []Format { return []Format{EAR, EARVeraison} }

// Parse finds a form among those that are possible.
func Parse(name string, possible []Format) (Format, error) {
	if f := Format(name); slices.Contains(possible, f) {
		return f, nil
	}
	var names []string
	for _, f := range possible {
		names = append(names, string(f))
	}
	return "", fmt.Errorf("format %.40q is not known; there are %s", name, strings.Join(names, ", "))
}

// WriteEvidence writes evidence. JSON is indented and ends with a line break, but for the bundle,
// which is written as it is sent.
func WriteEvidence(w io.Writer, f Format, e *attest.Evidence) error {
	switch f {
	case Bundle:
		data, err := e.Encode()
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	case EAT:
		claims, err := eatClaims(e)
		if err != nil {
			return err
		}
		return write(w, claims)
	}
	return fmt.Errorf("format %.40q is not one of evidence", f)
}

// WriteResult writes what a verification found, as indented JSON that ends with a line break.
func WriteResult(w io.Writer, f Format, a Appraisal) error {
	if a.Result == nil || a.At.IsZero() {
		return fmt.Errorf("writing a result as %s: no result, or no time", f)
	}
	switch f {
	case EAR:
		return write(w, a.ear())
	case EARVeraison:
		return write(w, a.veraison())
	}
	return fmt.Errorf("format %.40q is not one of results", f)
}

func write(w io.Writer, claims any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(claims); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}
