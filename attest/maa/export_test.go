package maa

import (
	"encoding/json"
	"time"
)

// CheckToken looks into a token as Client.Attest does.
func CheckToken(jwt string, r Request) (time.Time, error) { return checkToken(jwt, r) }

// ReadEnvelope parses an answer and returns its envelope as JSON.
func ReadEnvelope(body []byte) ([]byte, error) {
	e, err := parseEnvelope(body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(e)
}
