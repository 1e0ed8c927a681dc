package attest

// ParsePublicArea reads a TPMT_PUBLIC.
func ParsePublicArea(b []byte) error {
	_, err := parsePublic(b)
	return err
}

// ParseCertify reads a TPMS_ATTEST.
func ParseCertify(b []byte) error {
	_, err := parseStatement(b, typeCertify)
	return err
}

// ParseQuote reads a TPMS_ATTEST.
func ParseQuote(b []byte) error {
	_, err := parseStatement(b, typeQuote)
	return err
}
