"""What analysts take home: every record as it is, as FHIR R4 NDJSON or as Parquet tables."""
