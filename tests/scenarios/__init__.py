"""Whole workers: over LocalGateway, in real servers, and in other surroundings."""
