package tee

// ParseSGXExtension reads the value of a PCK certificate's extension.
func ParseSGXExtension(value []byte) (*PCK, error) {
	p := &PCK{}
	return p, p.read(value)
}
